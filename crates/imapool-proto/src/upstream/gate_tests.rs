use proptest::prelude::*;

use super::*;

/// The most that fell into any stretch of time, beyond what comes back in it.
fn most_at_once(passed: &[Instant], pause: Duration) -> usize {
    let within = |from: usize, to: usize| {
        let back = (passed[to] - passed[from]).as_nanos() / pause.as_nanos();
        (to - from + 1).saturating_sub(usize::try_from(back).unwrap())
    };
    (0..passed.len()).flat_map(|from| (from..passed.len()).map(move |to| within(from, to))).max().unwrap_or(0)
}

#[derive(Debug, Clone)]
enum Step {
    /// Time goes on.
    After(u64),
    Enter,
    /// Waits until it is let pass, or gives up before that.
    Wait {
        gives_up: bool,
    },
    Unused {
        tried: bool,
    },
    Proven,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3_000u64).prop_map(Step::After),
        6 => Just(Step::Enter),
        2 => any::<bool>().prop_map(|gives_up| Step::Wait { gives_up }),
        1 => any::<bool>().prop_map(|tried| Step::Unused { tried }),
        1 => Just(Step::Proven),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Whatever happens: no stretch of time has more connections than a burst and one for each pause, and of those
    /// that were of no use in a row, each beyond the grace came after a pause. Who does as told is let pass in the
    /// end.
    #[test]
    fn a_line_keeps_its_bounds(places in 1..6usize, steps in steps()) {
        let mut line = Line::new(places);
        let mut now = Instant::now();
        // Connections that were opened, and by when a naive count has seen so many in a row unused.
        let (mut passed, mut in_a_row) = (Vec::new(), Vec::<Instant>::new());
        for step in steps {
            match step {
                Step::After(millis) => now += Duration::from_millis(millis),
                Step::Enter | Step::Wait { gives_up: false } => {
                    let waits = matches!(step, Step::Wait { .. });
                    let mut result = line.enter(false, now);
                    if waits && result.is_err() {
                        line.waits(true);
                        let mut looks = 0;
                        while let Err(later) = result {
                            prop_assert!(later.at > now && later.at - now <= LONGEST_PAUSE + Duration::from_secs(20));
                            now = later.at;
                            result = line.enter(true, now);
                            looks += 1;
                            prop_assert!(looks < 10);
                        }
                        line.waits(false);
                    }
                    if result.is_ok() {
                        let grace = places * 2;
                        if in_a_row.len() >= grace {
                            let beyond = u32::try_from(in_a_row.len() - grace).unwrap().min(20);
                            let pause = (FIRST_PAUSE * 2u32.pow(beyond.min(10))).min(LONGEST_PAUSE);
                            prop_assert!(now - *in_a_row.last().unwrap() >= pause, "{} in a row", in_a_row.len());
                        }
                        passed.push(now);
                        in_a_row.push(now);
                    }
                }
                Step::Wait { gives_up: true } => {
                    line.waits(true);
                    line.waits(false);
                }
                // Of the last one that passed, if nothing else happened to it.
                Step::Unused { tried } if passed.last().is_some_and(|last| in_a_row.last() == Some(last)) => {
                    line.unused(tried);
                    in_a_row.pop();
                    if !tried {
                        passed.pop();
                    }
                    // Others would have come before it: what is left of the pause is that of those before.
                    if in_a_row.len() >= places * 2 {
                        *in_a_row.last_mut().unwrap() = now - LONGEST_PAUSE;
                    }
                }
                Step::Unused { .. } => {}
                Step::Proven => {
                    line.proven();
                    in_a_row.clear();
                    prop_assert!(!line.backs_off());
                }
            }
            prop_assert_eq!(line.backs_off(), in_a_row.len() >= places * 2);
            prop_assert!(most_at_once(&passed, ACCOUNT_PAUSE) <= places * 2 + FURTHER as usize);
        }
    }

    /// Those who wait are let pass in the order of asking, each at the time it was told or before, and nobody in
    /// between.
    #[test]
    fn who_waits_is_not_overtaken(waiting in 1..40u32, newcomers in prop::collection::vec(0..200u64, 0..40)) {
        let mut bucket = Bucket::new(3, Duration::from_millis(100));
        let start = Instant::now();
        (0..3).for_each(|_| bucket.enter(false, start).unwrap());
        let told: Vec<_> = (0..waiting)
            .map(|_| {
                let at = bucket.enter(false, start).unwrap_err();
                bucket.waiting += 1;
                at
            })
            .collect();
        prop_assert!(told.is_sorted());
        let mut now = start;
        let mut newcomers = newcomers.into_iter();
        for at in told {
            if let Some(before) = newcomers.next() {
                now = (now + Duration::from_millis(before)).min(at);
                prop_assert!(bucket.enter(false, now).is_err(), "somebody waits");
            }
            now = at;
            prop_assert!(bucket.enter(true, now).is_ok());
            bucket.waiting -= 1;
        }
        prop_assert_eq!(now - start, Duration::from_millis(100) * waiting);
    }
}

#[test]
fn what_nobody_waits_for_leaves_half_to_the_others() {
    let (mut gate, now) = (Gate::default(), Instant::now());
    let spares = (0..BACKEND_BURST).take_while(|_| gate.enter(Whom::Spare, false, now).is_ok()).count();
    assert!(gate.enter(Whom::Look, false, now).is_err());
    let logins = (0..=BACKEND_BURST).take_while(|_| gate.enter(Whom::Login, false, now).is_ok()).count();
    assert_eq!(spares + logins, BACKEND_BURST as usize);
    assert!(spares.abs_diff(logins) <= 2, "{spares} {logins}");
    assert_eq!(gate.free(now), 0);
    let later = gate.enter(Whom::Login, false, now).unwrap_err();
    assert_eq!((later.at, later.reason), (now + BACKEND_PAUSE, Reason::Backend));
    let pass = gate.enter(Whom::Login, false, later.at).unwrap();
    gate.give_back(pass);
    assert_eq!(gate.free(later.at), 1);
}

/// What honest load needs: ten thousand first logins at the start, and the same again after an outage of all
/// connections.
#[test]
fn honest_load_does_not_wait() {
    let (mut gate, start) = (Gate::default(), Instant::now());
    for second in [0, 20] {
        let now = start + Duration::from_secs(second);
        assert!((0..10_000).all(|_| gate.enter(Whom::Login, false, now).is_ok()));
    }
    let mut line = Line::new(4);
    for _ in 0..2 {
        assert!((0..4).all(|_| line.enter(false, start).is_ok()), "all of an account's connections at once");
        assert!(!line.backs_off());
        line.proven();
    }
}

/// Sessions that go through cost the others nothing, however many there are.
#[test]
fn relayed_sessions_take_no_token() {
    let (mut gate, now) = (Gate::default(), Instant::now());
    let free = gate.free(now);
    for _ in 0..2 * BACKEND_BURST {
        let _ = gate.enter(Whom::Relay, false, now).unwrap();
    }
    let pass = gate.enter(Whom::Relay, false, now).unwrap();
    gate.give_back(pass);
    assert_eq!(gate.free(now), free);
    let _ = gate.enter(Whom::Login, false, now).unwrap();
    let pass = gate.enter(Whom::Relay, false, now).unwrap();
    gate.give_back(pass);
    assert_eq!(gate.free(now), free - 1, "what was free gives nothing back");
}

/// As one that had as many from the start, less what has passed.
#[test]
fn a_line_goes_by_the_places_that_there_are_by_now() {
    let now = Instant::now();
    let let_pass = |line: &mut Line| (0..1000).take_while(|_| line.enter(false, now).is_ok()).count();
    // It pauses behind twice as many as it has places.
    let mut line = Line::new(1);
    assert_eq!(let_pass(&mut line), 2);
    assert!(line.backs_off());
    line.resize(3);
    assert!(!line.backs_off());
    assert_eq!(let_pass(&mut line), 4);
    line.resize(1);
    line.proven();
    assert_eq!(let_pass(&mut line), 0, "so many passed at once already");
    let later = now + ACCOUNT_PAUSE.saturating_mul(2 * 3 + FURTHER);
    let let_pass = |line: &mut Line| (0..1000).take_while(|_| line.enter(false, later).is_ok()).count();
    assert_eq!(let_pass(&mut line), 2);
}

#[test]
fn with_fewer_places_the_first_pause_is_as_short_as_ever() {
    let start = Instant::now();
    let mut line = Line::new(5);
    assert!((0..9).all(|_| line.enter(false, start).is_ok()));
    assert!(!line.backs_off());
    line.resize(1);
    let mut now = start + Duration::from_secs(1);
    for pause in [FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4] {
        line.enter(false, now).unwrap();
        let later = line.enter(false, now).unwrap_err();
        assert_eq!((later.at, later.reason), (now + pause, Reason::BackOff));
        now = later.at;
    }
    // More places that are still too few change nothing, nor does what was given up.
    line.resize(2);
    line.enter(false, now).unwrap();
    line.unused(false);
    let later = line.enter(false, now).unwrap_err();
    now = later.at;
    line.enter(false, now).unwrap();
    assert_eq!(line.enter(false, now).unwrap_err().at, now + FIRST_PAUSE * 8);
}

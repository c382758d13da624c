use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn a_backend_has_its_own_ports_and_all_together_no_more_than_the_total() {
    let budget = Budget::of(3, [2, 2]);
    assert_eq!(budget.capacity(), 3);
    let first = [budget.permit(0).await, budget.permit(0).await];
    assert!(budget.try_permit(0).is_none(), "its ports are used up");
    let second = budget.permit(1).await;
    assert!(budget.try_permit(1).is_none(), "the total is reached");
    assert_eq!(budget.in_use(), 3);
    drop(first);
    assert!(budget.try_permit(1).is_some());
    drop(second);
    assert_eq!(budget.in_use(), 0);
    assert_eq!(Budget::of(0, [0]).capacity(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_did_not_have_is_left_alone_for_a_while() {
    let budget = Budget::of(10, [10, 10]);
    let held = budget.permit(0).await;
    budget.shrink(0);
    let last = budget.try_permit(0).expect("without a connection to make do with, one may be tried");
    assert!(budget.try_permit(0).is_none());
    assert!(budget.try_permit(1).is_some(), "other backends are not concerned");
    assert_eq!(budget.in_use(), 2);
    sleep(SHORTAGE + Duration::from_secs(1)).await;
    assert!(budget.try_permit(0).is_some());
    drop((held, last));
}

/// A connection without a socket.
#[derive(Debug)]
struct Fake {
    since: Since,
    share: Arc<Share>,
    budget: Arc<Budget>,
    /// As long as it rests.
    permit: Mutex<Option<Permit>>,
    goodbye: Duration,
    evicted: Arc<AtomicU64>,
}

impl Evict for Fake {
    fn evict(&self) -> bool {
        let Some(mut permit) = self.permit.lock().take() else { return false };
        permit.leave();
        self.evicted.fetch_add(1, Ordering::Relaxed);
        self.budget.closed(&self.share, self.since);
        let goodbye = self.goodbye;
        tokio::spawn(async move {
            sleep(goodbye).await;
            drop(permit);
        });
        true
    }
}

/// Connections at rest, and how many were evicted.
struct World {
    budget: Arc<Budget>,
    evicted: Arc<AtomicU64>,
    next: u64,
    resting: VecDeque<Arc<Fake>>,
}

impl World {
    fn new(total: usize, backends: &[usize]) -> Self {
        let budget = Budget::of(total, backends.iter().copied());
        Self { budget, evicted: Arc::default(), next: 0, resting: VecDeque::new() }
    }

    fn rest(&mut self, permit: Permit, goodbye: Duration) {
        let share = self.budget.opened(permit.backend());
        let (since, evicted) = ((Instant::now(), self.next), Arc::clone(&self.evicted));
        self.next += 1;
        let (budget, permit) = (Arc::clone(&self.budget), Mutex::new(Some(permit)));
        let fake = Arc::new(Fake { since, share, budget, permit, goodbye, evicted });
        let this: Arc<dyn Evict> = Arc::<Fake>::clone(&fake);
        self.budget.rests(&fake.share, since, Arc::downgrade(&this));
        self.budget.rested(&fake.share);
        self.resting.push_back(fake);
    }

    /// Takes one out of its rest, to use it.
    fn take(&mut self, at: usize) -> Option<Permit> {
        self.resting.retain(|fake| fake.permit.lock().is_some());
        let fake = self.resting.remove(at.checked_rem(self.resting.len())?)?;
        let permit = fake.permit.lock().take();
        self.budget.taken(&fake.share, fake.since);
        self.budget.closed(&fake.share, fake.since);
        permit
    }

    fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Lets all that can go on now go on.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

/// What came back for one who waits may have gone elsewhere. Then it looks again, and something else is closed for it.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_went_elsewhere() {
    let mut world = World::new(1, &[1]);
    let held = world.budget.permit(0).await;
    let budget = Arc::clone(&world.budget);
    let waits = tokio::spawn(async move { budget.permit(0).await });
    World::settle().await;
    world.budget.share(0).need.granted(1);
    world.rest(held, Duration::ZERO);
    World::settle().await;
    assert_eq!(world.evicted(), 0, "one seems to be on its way");
    drop(tokio::time::timeout(2 * DOUBT, waits).await.expect("in time"));
    assert_eq!(world.evicted(), 1);
}

/// Who is faster than one who is about to queue, leaves that one without what had come back for it: something else is
/// closed.
#[tokio::test(start_paused = true)]
async fn who_is_overtaken_has_something_else_closed() {
    let mut world = World::new(2, &[2]);
    let (first, second) = (world.budget.permit(0).await, world.budget.permit(0).await);
    let share = world.budget.share(0);
    let about_to_queue = share.need.wait();
    drop(first);
    world.rest(second, Duration::ZERO);
    assert_eq!(world.evicted(), 0, "one came back");
    let faster = world.budget.try_permit(0);
    assert!(faster.is_some());
    assert_eq!(world.evicted(), 1);
    drop(about_to_queue);
}

/// Ten thousand at rest, a thousand who wait: a thousand are closed, those that rested longest, and each makes room
/// for the one who has waited longest.
#[tokio::test(start_paused = true)]
async fn as_many_go_as_somebody_waits_for() {
    const ALL: usize = 10_000;
    let mut world = World::new(ALL, &[ALL, ALL]);
    for at in 0..ALL {
        let permit = world.budget.try_permit(at % 2).unwrap();
        world.rest(permit, Duration::from_secs(1));
    }
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = tokio::task::JoinSet::new();
    for at in 0..1_000 {
        let (budget, served) = (Arc::clone(&world.budget), Arc::clone(&served));
        waiting.spawn(async move {
            let permit = budget.permit(at % 2).await;
            served.lock().push(at);
            permit
        });
    }
    World::settle().await;
    assert_eq!(world.evicted(), 1_000);
    assert!(world.resting.iter().take(1_000).all(|fake| fake.permit.lock().is_none()), "the longest at rest");
    // What comes to rest meanwhile, when all of them say goodbye at once, is no reason to close more.
    sleep(Duration::from_secs(1)).await;
    let permit = world.take(5_000).unwrap();
    world.rest(permit, Duration::ZERO);
    let permits: Vec<_> = waiting.join_all().await;
    assert_eq!((world.evicted(), permits.len()), (1_000, 1_000));
    assert!(served.lock().is_sorted());
}

/// One that says goodbye slowly keeps nobody waiting who could have another's place.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_one_that_somebody_else_has_got() {
    let mut world = World::new(2, &[2]);
    let (first, second) = (world.budget.try_permit(0).unwrap(), world.budget.try_permit(0).unwrap());
    world.rest(first, Duration::from_secs(4));
    let start = Instant::now();
    let wait = |world: &World| {
        let budget = Arc::clone(&world.budget);
        tokio::spawn(async move { budget.permit(0).await })
    };
    let slow = wait(&world);
    World::settle().await;
    assert_eq!(world.evicted(), 1);
    let other = wait(&world);
    World::settle().await;
    // It gets the one that was freed otherwise, and the other one what was evicted for the first.
    drop(second);
    drop(slow.await.unwrap());
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    drop(other.await.unwrap());
    assert!(start.elapsed() <= Duration::from_secs(4));
}

#[derive(Debug, Clone)]
enum Step {
    /// Somebody wants one.
    Wait(usize),
    /// Who has waited longest gives up.
    GiveUp,
    /// One in use comes to rest, or is closed.
    Rest(usize, u64),
    Close(usize),
    /// One at rest is used again.
    Take(usize),
    /// The budget is changed.
    Resize(usize),
    After(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..2usize).prop_map(Step::Wait),
        1 => Just(Step::GiveUp),
        5 => (0..100usize, 0..4_000u64).prop_map(|(at, goodbye)| Step::Rest(at, goodbye)),
        2 => (0..100usize).prop_map(Step::Close),
        2 => (0..100usize).prop_map(Step::Take),
        1 => (1..8usize).prop_map(Step::Resize),
        3 => (0..2_000u64).prop_map(Step::After),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens, in whatever order: once nothing moves any more, nobody waits while a connection rests that
    /// could be closed, or while there is room; and no more were closed than somebody waited for.
    #[test]
    fn no_wake_up_is_lost(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let mut world = World::new(4, &[3, 3]);
            let mut waiting = VecDeque::new();
            let (mut used, mut waited) = (Vec::new(), 0);
            for step in steps.into_iter().chain([Step::After(100_000)]) {
                match step {
                    Step::Wait(backend) => {
                        let budget = Arc::clone(&world.budget);
                        waiting.push_back((backend, tokio::spawn(async move { budget.permit(backend).await })));
                        waited += 1;
                    }
                    Step::GiveUp => {
                        if let Some((_, wait)) = waiting.pop_front() {
                            wait.abort();
                            // It may have had one already.
                            drop(wait.await);
                        }
                    }
                    Step::Rest(at, goodbye) if !used.is_empty() => {
                        let permit = used.swap_remove(at % used.len());
                        world.rest(permit, Duration::from_millis(goodbye));
                    }
                    Step::Close(at) if !used.is_empty() => drop(used.swap_remove(at % used.len())),
                    Step::Rest(..) | Step::Close(_) => {}
                    Step::Take(at) => used.extend(world.take(at)),
                    Step::Resize(total) => {
                        // What comes back and is withheld makes room for nobody.
                        waited += world.budget.capacity().saturating_sub(total) as u64;
                        world.budget.total.resize(total);
                    }
                    Step::After(millis) => sleep(Duration::from_millis(millis)).await,
                }
                World::settle().await;
                let mut still = VecDeque::new();
                for (backend, wait) in waiting {
                    if wait.is_finished() {
                        used.push(wait.await.unwrap());
                    } else {
                        still.push_back((backend, wait));
                    }
                }
                waiting = still;
            }
            world.resting.retain(|fake| fake.permit.lock().is_some());
            for (backend, _) in &waiting {
                let share = world.budget.share(*backend);
                let full = share.allowance.semaphore().available_permits() == 0;
                let none_anywhere = world.budget.total.allowance.semaphore().available_permits() == 0;
                assert!(full || none_anywhere, "there is room");
                let could = world.resting.iter().any(|fake| none_anywhere && !full || fake.share_is(&share));
                assert!(!could, "{} rest while {} wait", world.resting.len(), waiting.len());
            }
            assert!(world.evicted() <= waited, "{} for {waited}", world.evicted());
        });
    }
}

impl Fake {
    fn share_is(&self, share: &Arc<Share>) -> bool {
        Arc::ptr_eq(&self.share, share)
    }
}

/// Imapools that share nothing divide what there is.
#[test]
fn one_of_several_takes_its_part() {
    let listener = config::Listener::new(config::ListenAddr::Tcp(([127, 0, 0, 1], 0).into()));
    let mut config = Config::new(listener, config::Backend::new("localhost", 143));
    let whole = Budget::new(&config).usage(0).1;
    config.pool.replicas = 3;
    let ports = ports_towards(&config.backends[0]) * 4 / 5;
    assert_eq!(Budget::new(&config).usage(0).1, ports.div_ceil(3).min(whole));
    config.pool.max_total = 10;
    assert_eq!(Budget::new(&config).capacity(), 4);
    config.pool.replicas = 1000;
    assert_eq!(Budget::new(&config).capacity(), 1);
}

//! The whole proxy in a simulated world: its own tasks and code, over a network in memory, on one thread, with time
//! that stands still while anything can be done, and with all chance from one seed. A run takes milliseconds, and goes
//! the same way each time.
//!
//! What follows from a seed exactly needs `RUSTFLAGS="--cfg tokio_unstable"`: whom tokio wakes first of many who wait
//! for the same thing is chance otherwise.
//!
//! `IMAPOOL_SIM_SEED` runs one seed (with `IMAPOOL_SIM_TRACE=1`, and tells all that was said), `IMAPOOL_SIM_FROM` and
//! `IMAPOOL_SIM_SEEDS` many, `IMAPOOL_SIM_REPLICAS` of three imapools that know each other. A seed that fails is made
//! smaller and printed as a plan that can be kept as a test.

mod chance;
mod client;
mod directory;
mod kept;
mod net;
mod plan;
mod replicas;
mod reply;
mod secrets;
mod truth;
mod view;
mod visit;
mod world;

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use plan::Plan;
use replicas::Trio;
use world::Report;

/// That of the program: a fifth of the time goes into memory otherwise.
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What can be run, made smaller and printed.
trait Run: Clone + Send + 'static {
    fn of(seed: u64) -> Self;
    #[cfg_attr(not(tokio_unstable), expect(dead_code, reason = "only then a runtime has one"))]
    fn seed(&self) -> u64;
    fn go(&self, trace: bool, net: &RefCell<Option<net::Net>>) -> impl Future<Output = Report>;
    fn less(&self) -> Vec<Self>;
    fn source(&self) -> String;
}

impl Run for Plan {
    fn of(seed: u64) -> Self {
        Self::of(seed)
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn go(&self, trace: bool, net: &RefCell<Option<net::Net>>) -> impl Future<Output = Report> {
        world::run(self, trace, net)
    }

    fn less(&self) -> Vec<Self> {
        self.less()
    }

    fn source(&self) -> String {
        self.source()
    }
}

impl Run for Trio {
    fn of(seed: u64) -> Self {
        Self::of(seed)
    }

    fn seed(&self) -> u64 {
        self.base.seed
    }

    fn go(&self, trace: bool, net: &RefCell<Option<net::Net>>) -> impl Future<Output = Report> {
        replicas::run(self, trace, net)
    }

    fn less(&self) -> Vec<Self> {
        self.less()
    }

    fn source(&self) -> String {
        format!("{self:#?}").replace(": [", ": vec![").replace("net: vec![", "net: [")
    }
}

thread_local! {
    /// The first panic of the run on this thread, in a task of the proxy too.
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Something has failed in this run.
fn has_failed() -> bool {
    FIRST.with_borrow(Option::is_some)
}

fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = std::thread::current().name().is_some_and(|name| name == "simulation");
            if !ours {
                return before(info);
            }
            let message = info.to_string();
            FIRST.with(|first| first.borrow_mut().get_or_insert(message).len());
        }));
    });
}

/// Runs a plan on a thread of its own; gives what failed, and what was said.
fn run<P: Run>(plan: &P, trace: bool) -> Result<(Report, Vec<String>), (String, Vec<String>)> {
    catch_panics();
    let plan = plan.clone();
    let thread = std::thread::Builder::new().name("simulation".into());
    let running = thread.spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        // Whom tokio wakes first is chance as well, which can be had from a seed only so.
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&plan.seed().to_le_bytes()));
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        let kept = RefCell::new(None);
        FIRST.take();
        // With the trace, the log as well.
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).without_time();
        let _log = (trace && std::env::var_os("IMAPOOL_SIM_LOG").is_some())
            .then(|| tracing::subscriber::set_default(log.with_writer(std::io::stdout).finish()));
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(plan.go(trace, &kept))));
        drop(runtime);
        let said = kept.take().map(|net: net::Net| net.lines()).unwrap_or_default();
        match (FIRST.with(RefCell::take), result) {
            (None, Ok(report)) => Ok((report, said)),
            (first, _) => Err((first.unwrap_or_else(|| "it panicked".into()), said)),
        }
    });
    running.expect("a thread").join().expect("panics are caught")
}

/// Makes a plan that fails smaller, for as long as it fails.
fn shrink<P: Run>(mut plan: P, mut why: String) -> (P, String) {
    let mut left = 400;
    'smaller: loop {
        for less in plan.less() {
            left -= 1;
            if left == 0 {
                return (plan, why);
            }
            if let Err((reason, _)) = run(&less, false) {
                (plan, why) = (less, reason);
                continue 'smaller;
            }
        }
        return (plan, why);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[test]
fn nothing_goes_wrong_whatever_goes_wrong() {
    look_for_what_goes_wrong::<Plan>("IMAPOOL_SIM_SEEDS", 200);
}

/// As the other one, for three imapools that know each other.
#[test]
fn replicas_agree_whatever_goes_wrong() {
    look_for_what_goes_wrong::<Trio>("IMAPOOL_SIM_REPLICAS", 60);
}

/// `seeds`: so many, unless the environment says otherwise by this `name`.
fn look_for_what_goes_wrong<P: Run>(name: &str, seeds: u64) {
    if let Some(seed) = number("IMAPOOL_SIM_SEED") {
        let outcome = run(&P::of(seed), number("IMAPOOL_SIM_TRACE").is_some());
        let (Ok((_, said)) | Err((_, said))) = &outcome;
        println!("{}", said.join("\n"));
        let (report, _) = outcome.unwrap_or_else(|(why, _)| panic!("seed {seed}: {why}"));
        println!("{report:?}");
        return;
    }
    let (from, seeds) = (number("IMAPOOL_SIM_FROM").unwrap_or(0), number(name).unwrap_or(seeds));
    let (next, failed) = (AtomicU64::new(from), AtomicBool::new(false));
    let (dials, commands) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return;
            }
            let plan = P::of(seed);
            match run(&plan, false) {
                Ok((report, _)) => {
                    dials.fetch_add(report.dials as u64, Ordering::Relaxed);
                    commands.fetch_add(report.commands, Ordering::Relaxed);
                }
                Err((why, _)) => {
                    failed.store(true, Ordering::Relaxed);
                    println!("IMAPOOL_SIM_SEED={seed}: {why}");
                    let (plan, why) = shrink(plan, why);
                    if let Some(lines) = number("IMAPOOL_SIM_TRACE") {
                        let said = run(&plan, true).err().map(|(_, said)| said).unwrap_or_default();
                        let from = said.len().saturating_sub(usize::try_from(lines).unwrap_or_default());
                        println!("{}", said[from..].join("\n"));
                    }
                    println!("the same in less: {why}\n{}", plan.source());
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    assert!(!failed.load(Ordering::Relaxed), "see above");
    println!("{seeds} seeds, {commands:?} commands at the server, {dials:?} dials");
}

#[test]
fn what_has_failed_once() {
    let failing = kept::ALL.map(|plan| plan()).map(|plan| (plan.seed, run(&plan, false).err().map(|(why, _)| why)));
    assert!(failing.iter().all(|(_, why)| why.is_none()), "{failing:#?}");
}

#[cfg(tokio_unstable)]
#[test]
fn a_seed_goes_the_same_way_each_time() {
    goes_the_same_way::<Plan>(20);
    goes_the_same_way::<Trio>(5);
}

#[cfg(tokio_unstable)]
fn goes_the_same_way<P: Run>(seeds: u64) {
    for seed in 0..seeds {
        let plan = P::of(seed);
        let ways = [(); 2].map(|()| run(&plan, true).unwrap_or_else(|(why, _)| panic!("seed {seed}: {why}")));
        let [(first, said), (second, again)] = ways;
        let differs = said.iter().zip(&again).find(|(said, again)| said != again);
        assert!(differs.is_none() && first == second, "seed {seed}: {differs:#?}");
    }
}

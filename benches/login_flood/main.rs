//! What a flood of wrong passwords costs those with the right one: their LOGIN times with and without it, in turn, in
//! front of a real Dovecot. `cargo bench --bench login_flood`, or with `-- --rounds N`.

#![allow(dead_code, reason = "the tests' own parts, of which a benchmark needs some")]

#[path = "../../tests/real/accounts.rs"]
mod accounts;
#[path = "../../tests/real/client.rs"]
mod client;
#[path = "../../tests/real/courier.rs"]
mod courier;
#[path = "../../tests/real/cyrus.rs"]
mod cyrus;
#[path = "../../tests/real/debian13.rs"]
mod debian13;
#[path = "../../tests/real/dovecot.rs"]
mod dovecot;
#[path = "../../tests/real/flood.rs"]
mod flood;
#[path = "../../tests/real/process.rs"]
mod process;
#[path = "../../tests/real/proxy.rs"]
mod proxy;
#[path = "../../tests/real/server.rs"]
mod server;

use std::time::Duration;

use anyhow::{Context as _, Result};
use flood::{Attack, Quantiles, RightUsers, World};
use tokio::time::sleep;

/// How long right users are watched, with and without the flood, in each round.
const WATCH: Duration = Duration::from_secs(20);
/// More than there is time for: the flood lasts until it is stopped.
const ENDLESS: usize = usize::MAX / 2;
/// Sessions of the flood from each of its addresses.
const SESSIONS: usize = 4;
/// `auth.cache_ttl` in seconds: each right user is verified again within every watch.
const TIME_TO_LIVE: u64 = 10;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--rounds").skip(1);
    let rounds = arguments.next().map_or(Ok(3), |rounds| rounds.parse::<usize>()).context("--rounds N")?;
    let Some(world) = World::start(TIME_TO_LIVE, false).await else { return Ok(()) };
    let right = RightUsers::start(&world);
    right.until_all_known().await;
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        right.take();
        sleep(WATCH).await;
        let quiet = Quantiles::of(right.take());
        let attack = Attack::start(world.proxy.address, ENDLESS, SESSIONS);
        sleep(WATCH).await;
        let flooded = Quantiles::of(right.take());
        attack.stop();
        let tally = attack.ended().await;
        let ratio = flooded.p99.as_secs_f64() / quiet.p99.as_secs_f64();
        println!("round {round}, quiet:   {quiet}");
        println!("round {round}, flooded: {flooded}; {tally:?}");
        println!("round {round}: p99 {ratio:.2} times that without the flood");
        ratios.push(ratio);
    }
    right.stop().await;
    world.proxy.finish();
    ratios.sort_by(f64::total_cmp);
    println!(
        "\np99 of right logins during the flood: {:.2} times that without (median of {rounds} rounds; target: at most 2)",
        ratios[rounds / 2]
    );
    Ok(())
}

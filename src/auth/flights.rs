//! One verification for all who ask with the same credential at the same time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Answer, Verdict};
use crate::secret::Fingerprint;

/// A verification that is under way, and where its answer will be.
#[derive(Debug, Clone)]
pub(super) struct Flight(watch::Receiver<Option<Answer>>);

/// Those that are under way.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Occasion, Flight>>);

/// The credential, and the residence of who shows it, by its address: several names may have one login at the backend,
/// and each is let in by its own.
pub(super) type Occasion = (Fingerprint, Option<usize>);

/// Whatever becomes of a flight, it is taken off the list, and lands with an answer.
struct Landing {
    flights: Arc<Flights>,
    occasion: Occasion,
    land: watch::Sender<Option<Answer>>,
    answer: Answer,
}

impl Landing {
    fn bring(&mut self, answer: Answer) {
        self.answer = answer;
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // Whoever comes after the verdict begins anew.
        self.flights.0.lock().remove(&self.occasion);
        self.land.send_replace(Some(self.answer.clone()));
    }
}

impl Flights {
    /// The one that is under way for this credential, or `ask` from now on, which runs to its end within `patience`,
    /// whoever leaves.
    pub(super) fn join<F>(self: &Arc<Self>, occasion: Occasion, patience: Duration, ask: impl FnOnce() -> F) -> Flight
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(&occasion) {
            return flight.clone();
        }
        let (land, flight) = watch::channel(None);
        let flight = Flight(flight);
        flights.insert(occasion, flight.clone());
        drop(flights);
        let mut landing = Landing { flights: Arc::clone(self), occasion, land, answer: Verdict::unavailable().into() };
        let asked = timeout(patience, ask());
        tokio::spawn(async move {
            if let Ok(answer) = asked.await {
                landing.bring(answer);
            }
        });
        flight
    }
}

impl Flight {
    /// What becomes of it.
    pub(super) async fn landed(mut self) -> Answer {
        let landed = self.0.wait_for(Option::is_some).await.map(|answer| answer.clone());
        // None lands without an answer.
        landed.ok().flatten().unwrap_or_else(|| Verdict::unavailable().into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::secret::Fingerprinter;

    const LONG: Duration = Duration::from_secs(3600);

    /// A verification that panics is over: the next asks the backend again.
    #[tokio::test(start_paused = true)]
    async fn one_that_crashes_stands_in_nobodys_way() {
        let flights = Arc::new(Flights::default());
        let occasion = (Fingerprinter::new().unwrap().fingerprint(&[b"x"]), None);
        let crash = |_: &str| -> Answer { panic!("on purpose") };
        let flight = flights.join(occasion, LONG, || async move { crash("") });
        assert!(matches!(flight.landed().await.verdict, Verdict::Unavailable(_)));
        let flight = flights.join(occasion, LONG, || async { Verdict::Limit("x".into()).into() });
        assert!(matches!(flight.landed().await.verdict, Verdict::Limit(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_one_credential_share_one_that_is_bounded() {
        let flights = Arc::new(Flights::default());
        let occasion = (Fingerprinter::new().unwrap().fingerprint(&[b"x"]), None);
        let asked = Arc::new(AtomicUsize::new(0));
        let join = || {
            let asked = Arc::clone(&asked);
            flights.join(occasion, LONG, || async move {
                asked.fetch_add(1, Ordering::Relaxed);
                std::future::pending().await
            })
        };
        let passengers = [join(), join(), join()];
        for flight in passengers {
            assert!(matches!(flight.landed().await.verdict, Verdict::Unavailable(_)));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(flights.0.lock().is_empty());
    }
}

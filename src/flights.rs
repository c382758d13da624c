//! One question for all who ask the same at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

/// A question that is under way, and where its answer will be.
#[derive(Debug, Clone)]
pub(crate) struct Flight<A>(watch::Receiver<Option<A>>);

/// Those that are under way.
#[derive(Debug)]
pub(crate) struct Flights<Q, A>(Mutex<HashMap<Q, Flight<A>>>);

impl<Q, A> Default for Flights<Q, A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Q: Clone + Eq + Hash + Send + 'static, A: Clone + Send + Sync + 'static> Flights<Q, A> {
    /// The one that is under way with this question, or `ask` from now on, which runs to its end, whoever leaves.
    /// `lost` is the answer of one that crashes; `settle` learns of the answer before anybody begins anew.
    pub(crate) fn join<F: Future<Output = A> + Send + 'static>(
        self: &Arc<Self>,
        question: Q,
        lost: A,
        ask: impl FnOnce() -> F,
        settle: impl FnOnce(&A) + Send + 'static,
    ) -> Flight<A> {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(&question) {
            return flight.clone();
        }
        let (land, flight) = watch::channel(None);
        let flight = Flight(flight);
        flights.insert(question.clone(), flight.clone());
        drop(flights);
        let (flights, asked) = (Arc::clone(self), tokio::spawn(ask()));
        tokio::spawn(async move {
            let answer = asked.await.unwrap_or(lost);
            // Should `settle` crash, the next begins anew all the same.
            let over = scopeguard::guard((), |()| drop(flights.0.lock().remove(&question)));
            settle(&answer);
            drop(over);
            land.send_replace(Some(answer));
        });
        flight
    }

    /// The one that is under way with this question.
    pub(crate) fn under_way(&self, question: &Q) -> Option<Flight<A>> {
        self.0.lock().get(question).cloned()
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl<A: Clone> Flight<A> {
    /// What becomes of it; `None`: nobody will know, because the process ends or `settle` has crashed.
    pub(crate) async fn landed(mut self) -> Option<A> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const LOST: &str = "lost";

    /// One that panics is over: the next asks again.
    #[tokio::test(start_paused = true)]
    async fn one_that_crashes_stands_in_nobodys_way() {
        let flights = Arc::new(Flights::default());
        let settled = Arc::new(AtomicUsize::new(0));
        let settle = || {
            let settled = Arc::clone(&settled);
            move |_: &&str| {
                settled.fetch_add(1, Ordering::Relaxed);
            }
        };
        let crash = |_: &str| -> &str { panic!("on purpose") };
        let flight = flights.join(1, LOST, || async move { crash("") }, settle());
        assert_eq!(flight.landed().await, Some(LOST));
        let flight = flights.join(1, LOST, || async { "well" }, settle());
        assert_eq!(flight.landed().await, Some("well"));
        assert_eq!((flights.len(), settled.load(Ordering::Relaxed)), (0, 2));
        let flight = flights.join(1, LOST, || async { "well" }, |_| panic!("on purpose"));
        assert_eq!((flight.landed().await, flights.len()), (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn all_with_one_question_share_one_that_is_bounded() {
        let flights = Arc::new(Flights::default());
        let asked = Arc::new(AtomicUsize::new(0));
        let join = || {
            let asked = Arc::clone(&asked);
            let ask = || async move {
                asked.fetch_add(1, Ordering::Relaxed);
                timeout(Duration::from_secs(3600), std::future::pending()).await.unwrap_or("late")
            };
            flights.join(1, LOST, ask, |_| {})
        };
        let passengers = [join(), join(), join()];
        for flight in passengers {
            assert_eq!(flight.landed().await, Some("late"));
        }
        assert_eq!((asked.load(Ordering::Relaxed), flights.len()), (1, 0));
    }
}

//! Members of groups are checked, each as often as its group says.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::Router;

impl Router {
    /// Checks them for as long as this is polled. Those of another table are checked from when that holds.
    pub(crate) async fn check(self: &Arc<Self>) {
        let mut begun = HashMap::new();
        loop {
            let mut exchanged = std::pin::pin!(self.exchanged.notified());
            exchanged.as_mut().enable();
            let next = self.begin_checks(&mut begun);
            tokio::select! {
                () = exchanged => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Begins those that are due, and says when the next one is. `begun`: when each member's last one was.
    fn begin_checks(self: &Arc<Self>, begun: &mut HashMap<usize, Instant>) -> Option<Instant> {
        let (table, now) = (self.table(), Instant::now());
        let mut last = std::mem::take(begun);
        for (backend, check) in table.checked() {
            // An address that another one has by now makes no difference but an interval.
            let it = Arc::as_ptr(backend) as usize;
            let mut begin = last.remove(&it).unwrap_or(now);
            if begin <= now {
                begin = now + check.interval;
                let (router, backend, check) = (Arc::clone(self), Arc::clone(backend), check.clone());
                tokio::spawn(async move {
                    backend.check(&check).await;
                    router.has_checked(&backend);
                });
            }
            begun.insert(it, begin.min(now + check.interval));
        }
        begun.values().min().copied()
    }
}

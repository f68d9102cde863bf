//! Places for connections: a bounded number, and never all of them held by those who do nothing.
//!
//! A connection with a request under way keeps its place until the last of the answer is given to be sent. When none is
//! free, the one that came first of all that wait (for a request, for the rest of a head, or for a reader of what is left)
//! is closed for the next: however many idle connections somebody opens, whoever asks something is answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    count: u32,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// In the order in which they came.
    seats: BTreeMap<u64, Arc<Seat>>,
}

/// One connection's place, as others see it.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// Requests under way: none or one.
    requests: AtomicUsize,
    leave: Notify,
}

/// A place that is held.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) seat: Arc<Seat>,
    number: u64,
    places: Arc<Places>,
    _permit: OwnedSemaphorePermit,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Seat>);

impl Places {
    /// So many places.
    pub(super) fn new(count: u32) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(count as usize));
        Arc::new(Self { free, count, taken: Mutex::default() })
    }

    /// The next free place; somebody who does nothing makes room.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        let permit = match self.free.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                self.make_room();
                let permit = self.free.clone().acquire_owned().await;
                permit.expect("the places are never closed")
            }
        };
        let seat = Arc::new(Seat::default());
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let number = taken.next;
        taken.next += 1;
        taken.seats.insert(number, seat.clone());
        Place { seat, number, places: self.clone(), _permit: permit }
    }

    /// Until all are free.
    pub(super) async fn all_free(&self) {
        // The places are never closed.
        let _ = self.free.acquire_many(self.count).await;
    }

    /// Tells the first one who does nothing to leave.
    fn make_room(&self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = taken.seats.iter().find(|(_, seat)| seat.requests.load(Ordering::SeqCst) == 0);
        if let Some(number) = idle.map(|(number, _)| *number)
            && let Some(seat) = taken.seats.remove(&number)
        {
            seat.leave();
        }
    }
}

impl Seat {
    /// Tells who sits there to leave, whatever is under way.
    pub(super) fn leave(&self) {
        self.leave.notify_one();
    }

    /// Until it is asked for.
    pub(super) async fn asked_for(&self) {
        self.leave.notified().await;
    }

    /// Keeps it until what is returned is dropped.
    pub(super) fn under_way(self: &Arc<Self>) -> UnderWay {
        self.requests.fetch_add(1, Ordering::SeqCst);
        UnderWay(self.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.seats.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_who_does_nothing_makes_room() {
        let places = Places::new(2);
        let (busy, idle) = (places.take().await, places.take().await);
        let request = busy.seat.under_way();
        let (next, ()) = tokio::join!(places.take(), async {
            idle.seat.asked_for().await;
            drop(idle);
        });
        // Both are busy now: the next one waits until one of them is done.
        let other = next.seat.under_way();
        let (last, ()) = tokio::join!(places.take(), async {
            drop(request);
            drop(busy);
        });
        drop((other, next, last));
        places.all_free().await;
    }
}

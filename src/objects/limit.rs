//! What all threads of one repository share: so many bytes a second in each direction, and so many requests at a time.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::retry::{self, Cancel};
use super::ObjectError;

/// What a limit lets through at once after it was idle.
const BURST: Duration = Duration::from_millis(250);
/// How often who waits for a slot looks whether to go on waiting.
const LOOK: Duration = Duration::from_millis(100);

/// A token bucket. What passes is promised its time in the order of asking, so threads get equal shares.
pub struct Limit {
    /// None: as fast as it goes.
    bytes_per_second: Option<u64>,
    /// When all that has passed is paid for.
    paid: Mutex<Instant>,
}

impl Limit {
    /// 0: none.
    pub fn new(bytes_per_second: u64) -> Limit {
        Limit { bytes_per_second: (bytes_per_second > 0).then_some(bytes_per_second), paid: Mutex::new(Instant::now()) }
    }

    /// Comes back when so many bytes may pass.
    pub fn pass(&self, bytes: usize, cancel: &Cancel) -> Result<(), ObjectError> {
        match self.delay(bytes, Instant::now()) {
            Some(delay) => retry::sleep(delay, cancel),
            None => Ok(()),
        }
    }

    fn delay(&self, bytes: usize, now: Instant) -> Option<Duration> {
        let rate = self.bytes_per_second?;
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = now.checked_sub(BURST).map_or(*paid, |idle| idle.max(*paid));
        *paid = from + Duration::from_secs_f64(bytes as f64 / rate as f64);
        Some(paid.saturating_duration_since(now)).filter(|delay| !delay.is_zero())
    }
}

/// A number of requests that may be under way.
pub struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

pub struct Slot<'a>(&'a Slots);

impl Slots {
    pub fn new(count: usize) -> Slots {
        Slots { free: Mutex::new(count.max(1)), freed: Condvar::new() }
    }

    pub fn take(&self, cancel: &Cancel) -> Result<Slot<'_>, ObjectError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            if cancel() {
                return Err(ObjectError::Cancelled);
            }
            free = self.freed.wait_timeout(free, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Ok(Slot(self))
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_passes_takes_its_time_and_no_more() {
        let limit = Limit::new(1000);
        let start = Instant::now() + Duration::from_secs(10);
        // A quarter of a second was saved up.
        assert_eq!(limit.delay(250, start), None);
        assert_eq!(limit.delay(500, start), Some(Duration::from_millis(500)));
        // Another thread comes behind it, wherever it asks from.
        assert_eq!(limit.delay(1000, start), Some(Duration::from_millis(1500)));
        assert_eq!(limit.delay(1000, start + Duration::from_secs(2)), Some(Duration::from_millis(750)));
        assert_eq!(Limit::new(0).delay(usize::MAX, start), None);
    }

    #[test]
    fn waiting_ends_when_nobody_wants_it_any_more() {
        let cancelled: Cancel = Arc::new(|| true);
        assert!(matches!(Limit::new(1).pass(1 << 20, &cancelled), Err(ObjectError::Cancelled)));
        let slots = Slots::new(1);
        let held = slots.take(&cancelled).unwrap();
        assert!(matches!(slots.take(&cancelled), Err(ObjectError::Cancelled)));
        drop(held);
        assert!(slots.take(&cancelled).is_ok());
    }

    #[test]
    fn no_more_than_the_slots_are_under_way() {
        let slots = Arc::new(Slots::new(2));
        let (inside, most) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        let never: Cancel = Arc::new(|| false);
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (slots, inside, most, never) = (slots.clone(), inside.clone(), most.clone(), never.clone());
                std::thread::spawn(move || {
                    let _slot = slots.take(&never).unwrap();
                    let mut count = inside.lock().unwrap();
                    *count += 1;
                    let now: i32 = *count;
                    drop(count);
                    let mut most = most.lock().unwrap();
                    *most = now.max(*most);
                    drop(most);
                    std::thread::sleep(Duration::from_millis(5));
                    *inside.lock().unwrap() -= 1;
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*most.lock().unwrap(), 2);
    }
}

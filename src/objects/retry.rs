//! Trying again: what failed for a reason that passes is done once more, after a pause that grows, until it succeeds, is not
//! wanted any more, or has failed for too long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ObjectError;

/// Asked now and then during whatever takes time; true ends it soon.
pub type Cancel = Arc<dyn Fn() -> bool + Send + Sync>;

/// How long a sleep goes on after it is cancelled.
const LOOK: Duration = Duration::from_millis(50);
/// Tried so often however long it takes: one attempt over a slow line may take longer than the patience lasts.
const LEAST_ATTEMPTS: u32 = 3;

#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Before the second attempt; doubled before each further one.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// No attempt begins so long after the first.
    pub total: Duration,
}

impl Patience {
    pub fn of(total: Duration) -> Patience {
        Patience { first_pause: Duration::from_millis(200), longest_pause: Duration::from_secs(30), total }
    }

    /// Does `attempt` until it succeeds or trying again is of no use.
    pub fn run<T>(&self, cancel: &Cancel, what: &str, mut attempt: impl FnMut() -> Result<T, ObjectError>) -> Result<T, ObjectError> {
        let begun = Instant::now();
        for attempts in 1.. {
            if cancel() {
                return Err(ObjectError::Cancelled);
            }
            let error = match attempt() {
                Err(error) if error.is_transient() => error,
                other => return other,
            };
            let pause = self.pause(attempts, error.retry_after(), fraction());
            if attempts >= LEAST_ATTEMPTS && begun.elapsed() + pause >= self.total {
                return Err(ObjectError::GaveUp { attempts, seconds: begun.elapsed().as_secs(), last: Box::new(error) });
            }
            log::debug!("{what}: {error}; attempt {} in {} ms", attempts + 1, pause.as_millis());
            sleep(pause, cancel)?;
        }
        Err(ObjectError::Cancelled)
    }

    /// Half of it is left to chance, so that threads which failed together do not come back together. What the server asks for
    /// is given, within bounds.
    fn pause(&self, attempts: u32, retry_after: Option<Duration>, fraction: f64) -> Duration {
        let grown = self.first_pause.saturating_mul(1 << (attempts - 1).min(20)).min(self.longest_pause);
        grown.mul_f64(0.5 + fraction / 2.0).max(retry_after.unwrap_or_default().min(self.longest_pause * 2))
    }
}

/// From 0 to 1.
fn fraction() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

pub fn sleep(duration: Duration, cancel: &Cancel) -> Result<(), ObjectError> {
    let until = Instant::now() + duration;
    loop {
        if cancel() {
            return Err(ObjectError::Cancelled);
        }
        match until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return Ok(()),
            left => std::thread::sleep(left.min(LOOK)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const QUICK: Patience = Patience { first_pause: Duration::from_micros(10), longest_pause: Duration::from_micros(20), total: Duration::from_secs(60) };

    fn never() -> Cancel {
        Arc::new(|| false)
    }

    fn unavailable(retry_after: Option<Duration>) -> ObjectError {
        ObjectError::Unavailable { place: "here".into(), status: 503, message: "busy".into(), retry_after }
    }

    #[test]
    fn what_passes_is_tried_again_and_what_does_not_is_told_at_once() {
        let mut count = 0;
        let result = QUICK.run(&never(), "test", || {
            count += 1;
            if count < 5 { Err(unavailable(None)) } else { Ok(count) }
        });
        assert_eq!(result.unwrap(), 5);
        let mut count = 0;
        let result: Result<(), _> = QUICK.run(&never(), "test", || {
            count += 1;
            Err(ObjectError::NotFound("a".into()))
        });
        assert!(matches!(result, Err(ObjectError::NotFound(_))) && count == 1);
    }

    #[test]
    fn it_ends_with_the_last_error_when_the_time_is_over() {
        let short = Patience { total: Duration::ZERO, ..QUICK };
        let error = short.run(&never(), "test", || Err::<(), _>(unavailable(None))).unwrap_err();
        assert!(matches!(&error, ObjectError::GaveUp { attempts: LEAST_ATTEMPTS, .. }), "{error}");
        assert!(error.to_string().contains("busy") && error.to_string().contains("3 times"), "{error}");
        assert!(!error.is_transient());
    }

    #[test]
    fn a_cancelled_one_ends_in_the_middle_of_its_pause() {
        let asked = Arc::new(AtomicU32::new(0));
        let counter = asked.clone();
        let cancel: Cancel = Arc::new(move || counter.fetch_add(1, Ordering::Relaxed) > 2);
        let slow = Patience { first_pause: Duration::from_secs(3600), longest_pause: Duration::from_secs(3600), total: Duration::from_secs(36_000) };
        let result = slow.run(&cancel, "test", || Err::<(), _>(unavailable(None)));
        assert!(matches!(result, Err(ObjectError::Cancelled)));
    }

    #[test]
    fn pauses_grow_within_bounds_and_give_the_server_what_it_asks_for() {
        let patience = Patience::of(Duration::from_secs(300));
        assert_eq!(patience.pause(1, None, 1.0), Duration::from_millis(200));
        assert_eq!(patience.pause(1, None, 0.0), Duration::from_millis(100));
        assert_eq!(patience.pause(3, None, 1.0), Duration::from_millis(800));
        assert_eq!(patience.pause(99, None, 1.0), patience.longest_pause);
        assert_eq!(patience.pause(1, Some(Duration::from_secs(7)), 1.0), Duration::from_secs(7));
        assert_eq!(patience.pause(1, Some(Duration::from_secs(86_400)), 1.0), Duration::from_secs(60));
    }
}

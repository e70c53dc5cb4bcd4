//! By which time may something be deleted for good? By the wall clock, unless it has just been set forward: then by what it would
//! show without that, until it has kept to its new course for a while. A clock that was wrong for a moment so deletes nothing.
//!
//! The measure is a clock that cannot be set and counts suspends (CLOCK_BOOTTIME), so neither a suspend nor a daemon that was
//! held up for long is taken for a jump. All times are milliseconds.

/// The wall clock is ahead of its course if by more than this; less is ordinary correction.
const JUMP: i64 = 5 * 60_000;
/// How much may have passed unseen before a start. What was recorded last tells only that it is not earlier than that.
const UNSEEN: i64 = 24 * 3_600_000;

pub struct Confirmed {
    /// What the wall clock is ahead of the steady one.
    course: i64,
    doubt: Option<Doubt>,
    /// How long a new course is doubted.
    hold: i64,
}

struct Doubt {
    course: i64,
    /// By the steady clock.
    until: i64,
}

impl Confirmed {
    /// The first look. `recorded`: when something was recorded last. `doubted`: what the clock would have shown without a jump
    /// that was doubted when the daemon ended.
    pub fn start(wall: i64, steady: i64, recorded: Option<i64>, doubted: Option<i64>, hold: i64) -> Confirmed {
        let believed = match (doubted, recorded) {
            (Some(doubted), _) => doubted,
            (None, Some(recorded)) if wall.saturating_sub(recorded) > UNSEEN => recorded,
            _ => wall,
        };
        let mut confirmed = Confirmed { course: believed.min(wall) - steady, doubt: None, hold };
        confirmed.look(wall, steady);
        confirmed
    }

    /// The confirmed time. It is never later than the wall clock's.
    pub fn look(&mut self, wall: i64, steady: i64) -> i64 {
        let course = wall - steady;
        if course - self.course <= JUMP {
            self.doubt = None;
        } else {
            // Set once more, it is to prove itself once more.
            let same = self.doubt.take().filter(|doubt| (course - doubt.course).abs() <= JUMP);
            let doubt = same.unwrap_or(Doubt { course, until: steady + self.hold });
            self.doubt = (steady < doubt.until).then_some(doubt);
        }
        if self.doubt.is_none() {
            self.course = course;
        }
        steady + self.course
    }

    /// While the clock is doubted: how far it is ahead, and how long that will last.
    pub fn doubt(&self, steady: i64) -> Option<(i64, i64)> {
        self.doubt.as_ref().map(|doubt| (doubt.course - self.course, (doubt.until - steady).max(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const YEAR: i64 = 365 * 24 * HOUR;
    const NOW: i64 = 57 * YEAR;

    fn new() -> Confirmed {
        Confirmed::start(NOW, 0, None, None, HOUR)
    }

    #[test]
    fn an_ordinary_clock_is_followed() {
        let mut clock = new();
        assert_eq!(clock.look(NOW + 1000, 1000), NOW + 1000);
        assert_eq!(clock.look(NOW + JUMP, 2000), NOW + JUMP, "a correction");
        assert_eq!(clock.look(NOW - YEAR, 3000), NOW - YEAR, "set back");
        assert_eq!(clock.look(NOW - YEAR + 9 * HOUR, 3000 + 9 * HOUR), NOW - YEAR + 9 * HOUR, "a suspend");
        assert_eq!(clock.doubt(3000 + 9 * HOUR), None);
    }

    #[test]
    fn a_jump_forward_is_believed_after_the_hold() {
        let mut clock = new();
        assert_eq!(clock.look(NOW + YEAR, 1000), NOW + 1000);
        assert_eq!(clock.doubt(1000), Some((YEAR - 1000, HOUR)));
        assert_eq!(clock.look(NOW + YEAR + HOUR - 1, HOUR + 999), NOW + HOUR + 999);
        assert_eq!(clock.look(NOW + YEAR + HOUR, HOUR + 1000), NOW + YEAR + HOUR);
        assert_eq!(clock.doubt(HOUR + 1000), None);
    }

    #[test]
    fn a_jump_that_is_taken_back_leaves_nothing() {
        let mut clock = new();
        clock.look(NOW + YEAR, 1000);
        assert_eq!(clock.look(NOW + 2000, 2000), NOW + 2000);
        assert_eq!(clock.doubt(2000), None);
        assert_eq!(clock.look(NOW + YEAR, 2 * HOUR), NOW + 2 * HOUR, "the next one is doubted from its own beginning");
    }

    #[test]
    fn each_further_jump_is_doubted_anew() {
        let mut clock = new();
        clock.look(NOW + YEAR, 1000);
        assert_eq!(clock.look(NOW + 2 * YEAR, HOUR), NOW + HOUR);
        assert_eq!(clock.look(NOW + 2 * YEAR, HOUR + 2000), NOW + HOUR + 2000);
        assert_eq!(clock.look(NOW + YEAR, HOUR + 3000), NOW + HOUR + 3000, "back, but not where it was");
        assert_eq!(clock.look(NOW + YEAR + HOUR, 2 * HOUR + 3000), NOW + YEAR + HOUR);
    }

    #[test]
    fn at_start_a_clock_is_doubted_that_is_far_from_what_was_recorded() {
        let start = |recorded, doubted| Confirmed::start(NOW, 0, recorded, doubted, HOUR).look(NOW, 0);
        assert_eq!(start(None, None), NOW);
        assert_eq!(start(Some(NOW - UNSEEN), None), NOW);
        assert_eq!(start(Some(NOW - UNSEEN - 1), None), NOW - UNSEEN - 1);
        assert_eq!(start(Some(NOW + YEAR), None), NOW, "set back meanwhile");
        assert_eq!(start(Some(NOW - 1000), Some(NOW - YEAR)), NOW - YEAR, "what was recorded last is of the doubted time");
        assert_eq!(start(Some(NOW - 1000), Some(NOW - 1000)), NOW, "the jump was taken back meanwhile");
        assert_eq!(start(Some(NOW + YEAR), Some(NOW + HOUR)), NOW, "and by more");
    }
}

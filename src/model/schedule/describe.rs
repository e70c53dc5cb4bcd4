//! A schedule in words, for people who do not read cron.

use super::{CronSchedule, Values};

const MONTHS: [&str; 12] = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Up to this many times of day are written out.
const MOST_CLOCK_TIMES: usize = 6;

impl CronSchedule {
    /// A short English description, such as "at 02:00 every day" or
    /// "at 01:01 on day 1 of the month or on Monday, in January".
    pub fn describe(&self) -> String {
        let (time, whole_day) = self.describe_time();
        let days = match self.describe_days() {
            Some(days) => format!(" on {days}"),
            None if whole_day => String::new(),
            None => " every day".into(),
        };
        let months: Vec<u32> = self.months.iter().collect();
        let months = match months.len() {
            12 => String::new(),
            _ => format!(", in {}", join(&runs(&months, |month| named(&MONTHS, month.wrapping_sub(1))))),
        };
        format!("{time}{days}{months}")
    }

    /// The times of day, and whether they spread evenly over the whole day.
    fn describe_time(&self) -> (String, bool) {
        let minutes: Vec<u32> = self.minutes.iter().collect();
        let hours: Vec<u32> = self.hours.iter().collect();
        let every_hour = hours.len() == 24;
        if !every_hour && minutes.len() * hours.len() <= MOST_CLOCK_TIMES {
            let times = hours.iter().flat_map(|hour| minutes.iter().map(move |minute| format!("{hour:02}:{minute:02}")));
            return (format!("at {}", join(&times.collect::<Vec<_>>())), false);
        }
        if minutes == [0]
            && let Some(period) = period(self.hours, 24)
        {
            return (every(period, "hour"), true);
        }
        let within = match (every_hour, hours.as_slice()) {
            (true, _) => "of every hour".into(),
            (false, [hour]) => format!("of hour {hour}"),
            (false, _) => format!("of hours {}", numbers(&hours)),
        };
        let text = match (period(self.minutes, 60), minutes.as_slice()) {
            (Some(period), _) if every_hour => every(period, "minute"),
            (Some(period), _) if period < 60 => format!("{} {within}", every(period, "minute")),
            (_, [minute]) => format!("at minute {minute} {within}"),
            _ => format!("at minutes {} {within}", numbers(&minutes)),
        };
        (text, every_hour)
    }

    /// The days, or `None` for every day.
    fn describe_days(&self) -> Option<String> {
        let mut choices = Vec::new();
        if let Some(month_days) = self.month_days {
            let days: Vec<u32> = month_days.days.iter().collect();
            match days.as_slice() {
                [] => {}
                [day] => choices.push(format!("day {day} of the month")),
                days if days.len() == 31 => return None,
                days => choices.push(format!("days {} of the month", numbers(days))),
            }
            if month_days.last {
                choices.push("the last day of the month".into());
            }
        }
        if let Some(weekdays) = self.weekdays {
            // Monday first, so that a weekend is one run.
            let mut days: Vec<u32> = weekdays.iter().map(|day| if day == 0 { 7 } else { day }).collect();
            days.sort_unstable();
            if days.len() == 7 {
                return None;
            }
            choices.push(join(&runs(&days, |day| named(&WEEKDAYS, day % 7))));
        }
        (!choices.is_empty()).then(|| choices.join(" or on "))
    }
}

/// The distance between the values if they divide a cycle of `length` evenly, beginning with 0.
fn period(values: Values, length: u32) -> Option<u32> {
    let period = values.iter().find(|&value| value > 0).unwrap_or(length);
    let even = length.is_multiple_of(period) && values == (0..length).step_by(period as usize).collect();
    even.then_some(period)
}

fn every(period: u32, unit: &str) -> String {
    if period == 1 { format!("every {unit}") } else { format!("every {period} {unit}s") }
}

fn named(names: &[&str], index: u32) -> String {
    names.get(index as usize).copied().unwrap_or_default().into()
}

/// Numbers in ascending order: "1 to 5 and 7", "5 to 55 in steps of 10".
fn numbers(values: &[u32]) -> String {
    if let &[first, second, _, .., last] = values
        && second - first > 1
        && values.windows(2).all(|pair| pair[1] - pair[0] == second - first)
    {
        return format!("{first} to {last} in steps of {}", second - first);
    }
    join(&runs(values, |value| value.to_string()))
}

/// The values in ascending order, three or more neighbours as "a to b".
fn runs(values: &[u32], name: impl Fn(u32) -> String) -> Vec<String> {
    let neighbours = values.chunk_by(|one, next| next - one == 1);
    let write = |run: &[u32]| match run {
        [first, _, .., last] if run.len() > 2 => vec![format!("{} to {}", name(*first), name(*last))],
        few => few.iter().map(|value| name(*value)).collect(),
    };
    neighbours.flat_map(write).collect()
}

/// "a", "a and b", "a, b and c".
fn join(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [front @ .., last] => format!("{} and {last}", front.join(", ")),
    }
}

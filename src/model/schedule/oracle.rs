//! The evaluator against an independent one that knows nothing but the rules: its own small parser, and a walk over every real
//! minute (around clock changes) or every day (over years). Deterministic; `COFFERD_SCHEDULE_CASES` multiplies the number of
//! cases.

#![cfg_attr(fuzzing, allow(dead_code))] // the random cases are for the tests

use super::*;
use std::collections::HashSet;

/// Zones with ordinary, odd and historic clock changes.
pub(super) const ZONES: &[&str] = &[
    "UTC",
    "Europe/London",
    "America/New_York",
    "America/St_Johns",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Santiago",
    "America/Caracas",
    "America/Nuuk",
    "Atlantic/Azores",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Antarctica/Casey",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Asia/Tokyo",
    "Australia/Lord_Howe",
    "Europe/Istanbul",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kwajalein",
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn item(&mut self, low: u64, high: u64) -> String {
        let span = high - low + 1;
        let first = low + self.below(span);
        let last = first + self.below(high - first + 1);
        let step = 1 + self.below(high.min(span / 2 + 2));
        match self.below(6) {
            0 => format!("*/{step}"),
            1 => format!("{first}-{last}"),
            2 => format!("{first}-{last}/{step}"),
            3 => format!("{first}/{step}"),
            _ => format!("{first}"),
        }
    }

    /// A field that is a bare `*` in `star` percent of the cases.
    fn field(&mut self, low: u64, high: u64, star: u64) -> String {
        if self.chance(star) {
            return "*".into();
        }
        let mut items: Vec<String> = (0..self.pick(&[1, 1, 1, 2, 3])).map(|_| self.item(low, high)).collect();
        if high == 31 && self.chance(10) {
            items.push(self.pick(&["L", "l"]).into());
        }
        items.join(",")
    }

    fn expression(&mut self, day_star: u64) -> String {
        let minute = self.field(0, 59, 25);
        // Hours near midnight and 01:00 to 03:00, where clocks change, are worth more than others.
        let hour = if self.chance(40) { self.pick(&["0", "1", "2", "3", "0-3", "1,2", "23", "*/2"]).into() } else { self.field(0, 23, 40) };
        let (day, month) = (self.field(1, 31, day_star), self.field(1, 12, day_star));
        let mut weekday = self.field(0, 7, day_star);
        if self.chance(10) {
            weekday = self.pick(&["mon", "SUN", "fri-sun", "Mon-Fri", "sun,wed", "tue/2"]).into();
        }
        format!("{minute} {hour} {day} {month} {weekday}")
    }
}

fn cases(ordinary: u64) -> u64 {
    let factor = std::env::var("COFFERD_SCHEDULE_CASES").ok().and_then(|text| text.parse().ok());
    ordinary * factor.unwrap_or(1)
}

/// A schedule as five predicates in tables.
pub(super) struct Oracle {
    minute: [bool; 64],
    hour: [bool; 64],
    day: [bool; 64],
    month: [bool; 64],
    weekday: [bool; 64],
    last_day: bool,
    union: bool,
    day_is_star: bool,
    repeats: bool,
}

impl Oracle {
    pub(super) fn new(text: &str) -> Oracle {
        let parts: Vec<&str> = text.split(' ').collect();
        let mut weekday = table(parts[4], 0, 6);
        weekday[0] |= weekday[7];
        Oracle {
            minute: table(parts[0], 0, 59),
            hour: table(parts[1], 0, 23),
            day: table(parts[2], 1, 31),
            month: table(parts[3], 1, 12),
            weekday,
            last_day: parts[2].split(',').any(|item| item == "L" || item == "l"),
            union: parts[2] != "*" && parts[4] != "*",
            day_is_star: parts[2] == "*",
            repeats: format!(",{},{}", parts[0], parts[1]).contains(",*"),
        }
    }

    fn day_matches(&self, date: NaiveDate) -> bool {
        let day = self.day[date.day() as usize]
            || self.last_day && date.succ_opt().is_none_or(|tomorrow| tomorrow.month() != date.month());
        let weekday = self.weekday[date.weekday().num_days_from_sunday() as usize];
        let days = if self.union { day || weekday } else if self.day_is_star { weekday } else { day };
        days && self.month[date.month() as usize]
    }

    fn matches(&self, wall: NaiveDateTime) -> bool {
        self.minute[wall.minute() as usize] && self.hour[wall.hour() as usize] && self.day_matches(wall.date())
    }

    /// The runs from the second minute on, one step of the clock at a time.
    pub(super) fn walk(&self, from: DateTime<Utc>, minutes: i64, zone: Tz) -> Vec<DateTime<Utc>> {
        let minute = TimeDelta::minutes(1);
        let wall_at = |instant: DateTime<Utc>| instant.with_timezone(&zone).naive_local();
        let mut runs = HashSet::new();
        let mut seen = HashSet::new();
        let mut before = wall_at(from);
        for instant in (1..=minutes).map(|count| from + TimeDelta::minutes(count)) {
            let wall = wall_at(instant);
            let mut skipped = before + minute;
            while skipped < wall {
                if self.matches(skipped) {
                    runs.insert(instant + (skipped - before - minute));
                }
                skipped += minute;
            }
            if self.matches(wall) && (seen.insert(wall) || self.repeats) {
                runs.insert(instant);
            }
            before = wall;
        }
        let mut runs: Vec<_> = runs.into_iter().collect();
        runs.sort();
        runs
    }
}

fn table(text: &str, low: usize, high: usize) -> [bool; 64] {
    const NAMES: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let mut text = text.to_lowercase().replace("-sun", "-7");
    for (value, name) in NAMES.iter().enumerate() {
        text = text.replace(name, &value.to_string());
    }
    let mut table = [false; 64];
    for item in text.split(',').filter(|item| *item != "l") {
        let mut pieces = item.split('/');
        let (range, step) = (pieces.next().unwrap_or_default(), pieces.next());
        let mut ends = range.split('-').map(|end| end.parse::<usize>().ok());
        let (first, last) = match (ends.next().flatten(), ends.next().flatten()) {
            (None, _) => (low, high),
            (Some(first), Some(last)) => (first, last),
            (Some(first), None) if step.is_some() => (first, high.max(first)),
            (Some(first), None) => (first, first),
        };
        let step: usize = step.map_or(1, |step| step.parse().expect("step"));
        let mut value = first;
        while value <= last {
            table[value] = true;
            value += step;
        }
    }
    table
}

/// The first minutes of new offsets between 1993 and 2050.
fn transitions(zone: Tz) -> Vec<DateTime<Utc>> {
    let offset = |minute: i64| DateTime::from_timestamp(minute * 60, 0).map(|t| t.with_timezone(&zone).offset().fix());
    const DAY: i64 = 1440;
    let mut found = Vec::new();
    for day in 8400..29_000 {
        let (mut old, mut new) = (day * DAY, (day + 1) * DAY);
        if offset(old) == offset(new) {
            continue;
        }
        while new - old > 1 {
            let middle = (old + new) / 2;
            if offset(middle) == offset(old) { old = middle } else { new = middle }
        }
        found.extend(DateTime::from_timestamp(new * 60, 0));
    }
    found
}

#[test]
fn every_minute_around_clock_changes() {
    const BEFORE: i64 = 2 * 1440;
    const AFTER: i64 = 2 * 1440;
    let mut random = Random(20_270_328);
    let zones: Vec<(Tz, Vec<DateTime<Utc>>)> =
        ZONES.iter().map(|name| parse_zone(name).expect("zone")).map(|zone| (zone, transitions(zone))).collect();
    assert!(zones.iter().filter(|(_, changes)| !changes.is_empty()).count() >= 22);
    let mut compared = 0;
    for case in 0..cases(4_000) {
        let (zone, changes) = &zones[(case % zones.len() as u64) as usize];
        let change = match changes.len() {
            0 => DateTime::UNIX_EPOCH + TimeDelta::days(random.below(30_000) as i64),
            count => changes[random.below(count as u64) as usize],
        };
        let text = random.expression(85);
        let Ok(schedule) = CronSchedule::parse(&text) else { continue };
        let start = change - TimeDelta::minutes(BEFORE);
        let end = start + TimeDelta::minutes(BEFORE + AFTER);
        // Two more days in front, so that the oracle has seen what the first occurrences were.
        let expected = Oracle::new(&text).walk(start - TimeDelta::days(2), BEFORE + AFTER + 2 * 1440, *zone);
        for _ in 0..4 {
            let spread = random.pick(&[30, 90, 1500]);
            let now = change + TimeDelta::minutes(random.below(2 * spread) as i64 - spread as i64);
            let now = now + TimeDelta::seconds(random.pick(&[0, 0, 1, 59]));
            let expected: Vec<_> = expected.iter().copied().filter(|run| *run > now).take(40).collect();
            let mut found = schedule.upcoming(now, *zone, expected.len() + 1);
            if expected.len() < 40 {
                found.retain(|run| *run <= end);
            } else {
                found.truncate(expected.len());
            }
            assert_eq!(found, expected, "{text} in {zone} after {now}");
            compared += found.len() as u64;
        }
    }
    assert!(compared > cases(60_000), "only {compared} runs compared");
}

#[test]
fn every_day_over_centuries() {
    let mut random = Random(2_100);
    let (mut refused, mut compared) = (0, 0);
    for _ in 0..cases(3_000) {
        let text = random.expression(40);
        let oracle = Oracle::new(&text);
        let start = NaiveDate::from_ymd_opt(1900, 1, 1).expect("date") + TimeDelta::days(random.below(300_000) as i64);
        let mut dates = start.iter_days().skip(1).take(9 * 366).filter(|date| oracle.day_matches(*date));
        let first_time = (0..1440).map(|minute| start.and_time(chrono::NaiveTime::MIN) + TimeDelta::minutes(minute));
        let first_time = first_time.map(|wall| wall.time()).find(|time| {
            oracle.minute[time.minute() as usize] && oracle.hour[time.hour() as usize]
        });
        let Ok(schedule) = CronSchedule::parse(&text) else {
            assert_eq!(dates.next(), None, "{text} is refused");
            refused += 1;
            continue;
        };
        let mut now = start.and_hms_opt(23, 59, 0).expect("time").and_utc();
        for date in dates.take(12) {
            let expected = date.and_time(first_time.expect("time")).and_utc();
            assert_eq!(schedule.next_after(now, Tz::UTC), Some(expected), "{text} after {now}");
            now = date.and_hms_opt(23, 59, 0).expect("time").and_utc();
            compared += 1;
        }
    }
    assert!(refused > 0 && compared > cases(20_000), "{refused} refused, {compared} compared");
}

#[test]
fn strange_texts_are_refused_or_run() {
    const PIECES: &[&str] = &[
        "*", "*", "*", " ", " ", " ", " ", "/", "-", ",", "0", "1", "5", "7", "12", "31", "59", "99999999999", "L", "l", "W", "#",
        "?", "sun", "MON", "jan", "Feb", "@daily", "@", "é", "\u{1f600}", "\u{0}", "\t", "\n", "\u{a0}", "+", ".", "*/2", "1-5",
    ];
    let mut random = Random(7);
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("time");
    let mut accepted = 0;
    for case in 0..cases(60_000) {
        let text: String = if case % 2 == 0 {
            (0..random.below(24)).map(|_| random.pick(PIECES)).collect()
        } else {
            // A good text with a few characters put in or taken out.
            let mut text: Vec<char> = random.expression(60).chars().collect();
            for _ in 0..=random.below(3) {
                let place = random.below(text.len() as u64) as usize;
                if random.chance(50) {
                    text.splice(place..place, random.pick(PIECES).chars());
                } else if text.len() > 1 {
                    text.remove(place);
                }
            }
            text.into_iter().collect()
        };
        match CronSchedule::parse(&text) {
            Ok(schedule) => {
                accepted += 1;
                assert!(schedule.next_after(now, Tz::UTC) > Some(now), "{text:?}");
                assert!(!schedule.describe().is_empty(), "{text:?}");
            }
            Err(cause) => assert!(cause.to_string().ends_with('.'), "{text:?}: {cause}"),
        }
    }
    assert!(accepted > cases(1_000), "{accepted} accepted");
}

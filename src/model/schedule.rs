//! When a backup schedule runs: five-field cron text, read in the schedule's own time zone.
//!
//! **Grammar** (Waldur contract, cron grammar). Five fields: minute 0-59, hour 0-23, day of month 1-31, month 1-12, day of
//! week 0-7 where 0 and 7 are Sunday. A field is a list of `*`, `a`, `a-b`, each with an optional step: `*/n`, `a-b/n`, and
//! `a/n` from `a` to the end of the field. Months and weekdays may be named with three letters in any case; `sun` at the end
//! of a range is 7. `L` in the day of month is the last day of that month. A range never wraps around, and a step never
//! exceeds the field's highest value, because `*/90` minutes would silently mean every hour. `@hourly`, `@daily`,
//! `@midnight`, `@weekly`, `@monthly`, `@yearly` and `@annually` stand for the usual texts.
//!
//! **Days.** When both the day of month and the day of week differ from a bare `*`, a day matches if *either* does. `*/2` and
//! `1-31` differ from a bare `*`.
//!
//! **Clock changes.** Times are found on the zone's wall clock and then placed in real time:
//! * A wall time that does not exist because the clock jumps over it runs once, later by the length of the jump: 01:30 in
//!   London on the last Sunday of March runs at 02:30 summer time. This holds for every schedule. If that moment is also
//!   a regular one, it is still one run.
//! * A wall time that occurs twice because the clock is set back runs at its first occurrence only, unless the schedule is
//!   an *interval*: then it runs at both, so that `*/30 * * * *` keeps its 30 minutes of real time. A schedule is an
//!   interval when an item of its minute or hour field begins with `*`, that is `*` or `*/n` (so `0 * * * *`, `@hourly`,
//!   `5 */2 * * *` and `*/10 1 * * *`). `0-59`, `0/10` and `0-23` spell the values out: they are fixed times.
//!
//! **Bounds.** Answers lie in the years 1 to 9999; outside there is no next run. The zone rules are those compiled in; past
//! their last year, 2100, a zone keeps its last offset.
//!
//! The matching is done by the `cron` crate. It joins the two day fields with AND, counts Sunday as 1, knows no `L`, mishandles
//! clock changes and ends in 2100. So each schedule becomes a few crate schedules of explicit lists, which are asked about a
//! year between 1972 and 1999 that has the same calendar as the year in question, in UTC standing in for the wall clock.

mod describe;
#[cfg(any(test, fuzzing))]
mod oracle;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Datelike, MappedLocalTime, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc};
use chrono_tz::{GapInfo, Tz};
use cron::Schedule;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The longest schedule text accepted, in characters (Waldur contract, schedule fields).
const MAX_TEXT: usize = 100;

const MACROS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// The years in which runs are looked for: those that RFC 3339 can write.
const YEARS: RangeInclusive<i32> = 1..=9999;

/// A year with a run is at most this far away: 29 February around a century that is no leap year.
const HORIZON_YEARS: i32 = 8;

/// 28 years contain each of the 14 calendars: seven weekdays for 1 January, with and without 29 February.
const MODEL_YEARS: std::ops::Range<i32> = 1972..2000;
const MODEL_LEAP_YEARS: &str = "1972,1976,1980,1984,1988,1992,1996";
const MODEL_COMMON_YEARS: &str = "1973-1975,1977-1979,1981-1983,1985-1987,1989-1991,1993-1995,1997-1999";

/// More than any jump of a zone's clock (24 hours, across the date line) and far less than the time between two jumps.
const AROUND_A_JUMP: TimeDelta = TimeDelta::hours(25);

/// A schedule text that cannot be used. The message is a sentence for the person who wrote the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

/// A parsed schedule. See the module text for the grammar and for what happens when clocks change.
#[derive(Debug, Clone)]
pub struct CronSchedule {
    minutes: Values,
    hours: Values,
    months: Values,
    /// `None` is a bare `*`.
    month_days: Option<MonthDays>,
    /// `None` is a bare `*`; Sunday is 0.
    weekdays: Option<Values>,
    /// Follows real time when the clock is set back.
    interval: bool,
    /// The schedule runs whenever one of these does; valid in [`MODEL_YEARS`] only.
    parts: Vec<Schedule>,
}

#[derive(Debug, Clone, Copy)]
struct MonthDays {
    days: Values,
    last: bool,
}

impl CronSchedule {
    /// Reads five fields or one of the `@` names. Text that is malformed, longer than 100 characters, or names only dates that do
    /// not exist is refused.
    pub fn parse(text: &str) -> Result<CronSchedule, ScheduleError> {
        let length = text.chars().count();
        if length > MAX_TEXT {
            return Err(ScheduleError(format!("A schedule has at most {MAX_TEXT} characters; this one has {length}.")));
        }
        let fields: Vec<&str> = expand_macro(text)?.split_ascii_whitespace().collect();
        let &[minute, hour, month_day, month, weekday] = fields.as_slice() else {
            return Err(ScheduleError(format!(
                "A schedule has five fields (minute, hour, day of month, month, day of week), for example \"0 2 * * *\"; \
                 this one has {}.",
                fields.len()
            )));
        };
        let (minute, hour) = (Field::parse(minute, &MINUTE)?, Field::parse(hour, &HOUR)?);
        let (month_day, month) = (Field::parse(month_day, &MONTH_DAY)?, Field::parse(month, &MONTH)?);
        let weekday = Field::parse(weekday, &WEEKDAY)?;
        let mut schedule = CronSchedule {
            minutes: minute.values,
            hours: hour.values,
            months: month.values,
            month_days: (!month_day.bare).then_some(MonthDays { days: month_day.values, last: month_day.last }),
            weekdays: (!weekday.bare).then_some(weekday.values),
            interval: minute.starred || hour.starred,
            parts: Vec::new(),
        };
        schedule.parts = schedule.crate_schedules()?;
        if schedule.wall_after(model_eve(MODEL_YEARS.start)).is_none() {
            return Err(ScheduleError(format!(
                "The schedule \"{}\" never matches: none of its months has such a day. Choose a day that exists.",
                text.trim().escape_debug()
            )));
        }
        Ok(schedule)
    }

    /// The first run strictly later than `now`, a whole minute on the wall clock of `zone`. `None` only outside the years 1 to
    /// 9999.
    pub fn next_after(&self, now: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        if !YEARS.contains(&now.year()) {
            return None;
        }
        let mut wall = search_start(now, zone)?;
        let mut earliest: Option<DateTime<Utc>> = None;
        while let Some(next) = self.wall_after(wall) {
            wall = next;
            let (run, in_order) = self.place(wall, zone, now);
            if let Some(run) = run {
                earliest = Some(earliest.map_or(run, |other| other.min(run)));
                // Second occurrences and times moved out of a jump may be overtaken by later wall times; others cannot.
                if in_order {
                    break;
                }
            }
        }
        earliest.filter(|run| YEARS.contains(&run.year()))
    }

    /// The next `count` runs after `now`, in order.
    pub fn upcoming(&self, now: DateTime<Utc>, zone: Tz, count: usize) -> Vec<DateTime<Utc>> {
        let first = self.next_after(now, zone);
        std::iter::successors(first, |&run| self.next_after(run, zone)).take(count).collect()
    }

    /// Where a matching wall time lies in real time, if later than `now`, and whether no later wall time can come before it.
    fn place(&self, wall: NaiveDateTime, zone: Tz, now: DateTime<Utc>) -> (Option<DateTime<Utc>>, bool) {
        let (run, in_order) = match zone.from_local_datetime(&wall) {
            MappedLocalTime::Single(only) => (Some(only.to_utc()), true),
            MappedLocalTime::Ambiguous(one, other) => {
                let (first, second) = (one.min(other).to_utc(), one.max(other).to_utc());
                if first > now || !self.interval { (Some(first), true) } else { (Some(second), false) }
            }
            MappedLocalTime::None => (after_jump(wall, zone), false),
        };
        (run.filter(|run| *run > now), in_order)
    }

    /// The first matching wall time strictly after `after`, which must be a whole minute. No zone is involved.
    fn wall_after(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        (after.year()..=after.year() + HORIZON_YEARS).find_map(|year| {
            let model = model_year(year)?;
            let from = if year == after.year() { after.with_year(model)? } else { model_eve(model) };
            let from = from.and_utc();
            let hits = self.parts.iter().filter_map(|part| part.after(&from).next());
            let first = hits.filter(|hit| hit.year() == model).min()?;
            first.naive_utc().with_year(year)
        })
    }

    /// The schedules of the `cron` crate whose union is this one.
    fn crate_schedules(&self) -> Result<Vec<Schedule>, ScheduleError> {
        let mut dates: Vec<[String; 4]> = Vec::new(); // day of month, month, day of week, year
        let any = || String::from("*");
        if let Some(MonthDays { days, last }) = self.month_days {
            if !days.is_empty() {
                dates.push([days.list(0), self.months.list(0), any(), any()]);
            }
            if last {
                dates.extend(last_days(self.months));
            }
        }
        if let Some(weekdays) = self.weekdays {
            dates.push([any(), self.months.list(0), weekdays.list(1), any()]);
        }
        if self.month_days.is_none() && self.weekdays.is_none() {
            dates.push([any(), self.months.list(0), any(), any()]);
        }
        let time = format!("0 {} {}", self.minutes.list(0), self.hours.list(0));
        let parse = |date: &[String; 4]| Schedule::from_str(&format!("{time} {}", date.join(" ")));
        let parts: Result<Vec<Schedule>, _> = dates.iter().map(parse).collect();
        parts.map_err(|cause| ScheduleError(format!("The schedule cannot be evaluated: {cause}")))
    }
}

/// Fuzz target: any text as a schedule. One that is taken runs when the oracle says, and can be described.
#[cfg(fuzzing)]
pub fn fuzz(data: &[u8]) {
    let mut input = crate::fuzz::Input(data);
    let (moment, zone) = (input.number(5) as i64 % 4_000_000_000, oracle::ZONES[input.below(oracle::ZONES.len() as u64) as usize]);
    let (Ok(text), Some(zone)) = (std::str::from_utf8(input.0), parse_zone(zone)) else { return };
    let schedule = match CronSchedule::parse(text) {
        Ok(schedule) => schedule,
        Err(error) => return assert!(error.to_string().ends_with('.'), "{error}"),
    };
    assert!(!schedule.describe().is_empty());
    let now = DateTime::from_timestamp(moment, 0).unwrap_or_default();
    let first = schedule.next_after(now, zone);
    assert!(first > Some(now), "{text:?} in {zone} after {now}: {first:?}");
    // What else is allowed is not told by the oracle.
    let plain = text.bytes().all(|byte| b"0123456789*,-/ ".contains(&byte)) && text.split(' ').all(|field| !field.is_empty());
    if plain {
        let minute = now.with_second(0).unwrap_or(now);
        let (from, end) = (minute - TimeDelta::days(2), minute + TimeDelta::days(1));
        let expected = oracle::Oracle::new(text).walk(from, 3 * 1440, zone).into_iter().find(|run| *run > now);
        assert_eq!(first.filter(|run| *run <= end), expected, "{text:?} in {zone} after {now}");
    }
}

/// The zone with this IANA name, aliases included. Names are case-sensitive (Waldur contract, schedule fields).
pub fn parse_zone(name: &str) -> Option<Tz> {
    name.parse().ok()
}

fn expand_macro(text: &str) -> Result<&str, ScheduleError> {
    let name = text.trim_ascii();
    if !name.starts_with('@') {
        return Ok(text);
    }
    let found = MACROS.iter().find(|(known, _)| *known == name);
    found.map(|(_, fields)| *fields).ok_or_else(|| {
        let known: Vec<&str> = MACROS.iter().map(|(known, _)| *known).collect();
        ScheduleError(format!("The schedule \"{}\" is unknown; allowed are {}.", name.escape_debug(), known.join(", ")))
    })
}

/// The last days of `months`, for the `cron` crate: February's depends on the year.
fn last_days(months: Values) -> Vec<[String; 4]> {
    const LAST_DAYS: [(&[u32], &str, &str); 4] = [
        (&[1, 3, 5, 7, 8, 10, 12], "31", "*"),
        (&[4, 6, 9, 11], "30", "*"),
        (&[2], "28", MODEL_COMMON_YEARS),
        (&[2], "29", MODEL_LEAP_YEARS),
    ];
    let wanted = LAST_DAYS.iter().map(|(group, day, years)| {
        let group: Values = group.iter().copied().filter(|&month| months.contains(month)).collect();
        (group, day, years)
    });
    let wanted = wanted.filter(|(group, ..)| !group.is_empty());
    wanted.map(|(group, day, years)| [day.to_string(), group.list(0), "*".into(), years.to_string()]).collect()
}

/// The year of [`MODEL_YEARS`] in which every date falls on the same weekday as in `year`.
fn model_year(year: i32) -> Option<i32> {
    let calendar = |year| Some((NaiveDate::from_ymd_opt(year, 1, 1)?.weekday(), NaiveDate::from_yo_opt(year, 366).is_some()));
    let wanted = calendar(year)?;
    MODEL_YEARS.into_iter().find(|&model| calendar(model) == Some(wanted))
}

/// The last minute before a model year.
fn model_eve(model: i32) -> NaiveDateTime {
    let new_year = NaiveDate::from_ymd_opt(model, 1, 1).unwrap_or_default().and_time(chrono::NaiveTime::MIN);
    new_year - TimeDelta::minutes(1)
}

/// The wall time after which to look for runs later than `now`: the minute of `now`, or earlier where the wall clock is about
/// to repeat itself or has just jumped over times that are still to run.
fn search_start(now: DateTime<Utc>, zone: Tz) -> Option<NaiveDateTime> {
    let offset_at = |instant: DateTime<Utc>| zone.offset_from_utc_datetime(&instant.naive_utc()).fix().local_minus_utc();
    let offset = offset_at(now);
    let will_repeat = offset - offset_at(now + AROUND_A_JUMP);
    let has_jumped = offset - offset_at(now - AROUND_A_JUMP);
    let seconds = offset - will_repeat.max(has_jumped).max(0);
    let wall = now.naive_utc() + TimeDelta::seconds(seconds.into());
    wall.with_second(0)?.with_nanosecond(0)
}

/// Where a wall time that the clock jumps over runs: as if the clock had not jumped.
fn after_jump(wall: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
    let (_, before) = GapInfo::new(&wall, &zone)?.begin?;
    let offset = TimeDelta::seconds(before.fix().local_minus_utc().into());
    Some((wall - offset).and_utc())
}

/// A set of small numbers: the values of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Values(u64);

impl Values {
    fn contains(self, value: u32) -> bool {
        value < u64::BITS && self.0 >> value & 1 == 1
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn iter(self) -> impl Iterator<Item = u32> {
        (0..u64::BITS).filter(move |&value| self.contains(value))
    }

    /// The values, each increased by `add`, in the `cron` crate's spelling.
    fn list(self, add: u32) -> String {
        let values: Vec<String> = self.iter().map(|value| (value + add).to_string()).collect();
        values.join(",")
    }
}

impl FromIterator<u32> for Values {
    fn from_iter<I: IntoIterator<Item = u32>>(values: I) -> Values {
        Values(values.into_iter().filter(|&value| value < u64::BITS).fold(0, |set, value| set | 1 << value))
    }
}

/// What one of the five fields may hold.
struct FieldRule {
    name: &'static str,
    low: u32,
    /// The highest value that may be written, and the largest step.
    high: u32,
    /// Where `*` and `a/n` end: the highest value that is not an alias.
    top: u32,
    /// Names of the values from `low` on.
    names: &'static [&'static str],
    last_day: bool,
}

const MINUTE: FieldRule = FieldRule { name: "minute", low: 0, high: 59, top: 59, names: &[], last_day: false };
const HOUR: FieldRule = FieldRule { name: "hour", low: 0, high: 23, top: 23, names: &[], last_day: false };
const MONTH_DAY: FieldRule = FieldRule { name: "day of month", low: 1, high: 31, top: 31, names: &[], last_day: true };
const MONTH: FieldRule = FieldRule {
    name: "month",
    low: 1,
    high: 12,
    top: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    last_day: false,
};
const WEEKDAY: FieldRule = FieldRule {
    name: "day of week",
    low: 0,
    high: 7,
    top: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    last_day: false,
};
const SUNDAY_AS_7: u32 = 7;

impl FieldRule {
    /// "The <field> field: <what> <what is allowed>".
    fn error(&self, what: std::fmt::Arguments) -> ScheduleError {
        let names = match self.names {
            [first, .., last] => format!(", names {first} to {last}"),
            _ => String::new(),
        };
        let last_day = if self.last_day { ", L for the last day" } else { "" };
        ScheduleError(format!(
            "The {} field: {what} Allowed are {} to {}{names}{last_day}, *, ranges a-b, lists a,b and steps */n, a-b/n, a/n.",
            self.name, self.low, self.high
        ))
    }

    fn value(&self, text: &str) -> Result<u32, ScheduleError> {
        let named = self.names.iter().zip(self.low..).find(|(name, _)| name.eq_ignore_ascii_case(text));
        let value = named.map(|(_, value)| value).or_else(|| number(text));
        value.filter(|value| (self.low..=self.high).contains(value)).ok_or_else(|| match text {
            "" => self.error(format_args!("a value is missing.")),
            "L" | "l" if self.last_day => self.error(format_args!("L stands alone, without range or step.")),
            _ => self.error(format_args!("\"{}\" is not one of its values.", text.escape_debug())),
        })
    }

    /// The end of a range. `fri-sun` means 5-7.
    fn range_end(&self, first: u32, text: &str) -> Result<u32, ScheduleError> {
        let last = self.value(text)?;
        let named_sunday = self.high == SUNDAY_AS_7 && last == 0 && number(text).is_none();
        Ok(if named_sunday && first > 0 { SUNDAY_AS_7 } else { last })
    }

    fn range(&self, text: &str, stepped: bool) -> Result<RangeInclusive<u32>, ScheduleError> {
        if text == "*" {
            return Ok(self.low..=self.top);
        }
        let Some((first, last)) = text.split_once('-') else {
            let first = self.value(text)?;
            return Ok(first..=if stepped { first.max(self.top) } else { first });
        };
        let first = self.value(first)?;
        let last = self.range_end(first, last)?;
        if first > last {
            let text = text.escape_debug();
            return Err(self.error(format_args!("the range \"{text}\" runs backwards; write it as two ranges.")));
        }
        Ok(first..=last)
    }

    fn step(&self, text: &str) -> Result<u32, ScheduleError> {
        number(text).filter(|step| (1..=self.high).contains(step)).ok_or_else(|| {
            self.error(format_args!("the step \"{}\" is not a number from 1 to {}.", text.escape_debug(), self.high))
        })
    }

    fn item(&self, text: &str) -> Result<impl Iterator<Item = u32>, ScheduleError> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (self.range(range, true)?, self.step(step)?),
            None => (self.range(text, false)?, 1),
        };
        let top = self.top;
        Ok(range.step_by(step as usize).map(move |value| if value > top { 0 } else { value }))
    }
}

/// Plain decimal digits only: `u32::from_str` alone would take a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// One field as written.
struct Field {
    values: Values,
    /// Nothing but `*`.
    bare: bool,
    /// One of the items begins with `*`.
    starred: bool,
    /// `L` is one of the items.
    last: bool,
}

impl Field {
    fn parse(text: &str, rule: &FieldRule) -> Result<Field, ScheduleError> {
        let mut field = Field { values: Values(0), bare: text == "*", starred: false, last: false };
        for item in text.split(',') {
            if rule.last_day && item.eq_ignore_ascii_case("l") {
                field.last = true;
                continue;
            }
            field.starred |= item.starts_with('*');
            field.values = field.values.iter().chain(rule.item(item)?).collect();
        }
        Ok(field)
    }
}

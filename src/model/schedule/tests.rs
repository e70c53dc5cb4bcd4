//! Tables: the Waldur contract's schedule vectors, clock changes, refused texts, descriptions.

use super::*;
use chrono_tz::Tz;

fn at(text: &str) -> DateTime<Utc> {
    let full = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        _ => format!("{text}Z"),
    };
    full.replace(' ', "T").parse().unwrap_or_else(|cause| panic!("{text}: {cause}"))
}

fn zone(name: &str) -> Tz {
    parse_zone(name).unwrap_or_else(|| panic!("no zone {name}"))
}

fn parse(text: &str) -> CronSchedule {
    CronSchedule::parse(text).unwrap_or_else(|cause| panic!("{text:?}: {cause}"))
}

#[track_caller]
fn check(cases: &[(&str, &str, &str, &[&str])]) {
    for &(text, zone_name, now, expected) in cases {
        let found = parse(text).upcoming(at(now), zone(zone_name), expected.len());
        let expected: Vec<_> = expected.iter().map(|run| at(run)).collect();
        assert_eq!(found, expected, "{text} in {zone_name} after {now}");
    }
}

#[test]
fn contract_vectors() {
    const LONDON: &str = "Europe/London";
    check(&[
        ("1 1 1 1 1", LONDON, "2026-11-21 12:00", &["2027-01-01 01:01", "2027-01-04 01:01", "2027-01-11 01:01"]),
        ("1 1 1 1 1", LONDON, "2027-01-01 01:01", &["2027-01-04 01:01"]),
        ("1 1 1 1 1", LONDON, "2027-01-25 02:00", &["2028-01-01 01:01", "2028-01-03 01:01", "2028-01-10 01:01"]),
        ("0 2 * * 4", "UTC", "2026-11-21 12:00", &["2026-11-26 02:00", "2026-12-03 02:00"]),
        ("0 2 * * *", "UTC", "2026-11-21 02:00", &["2026-11-22 02:00"]),
        ("0 2 * * *", "Asia/Tokyo", "2026-11-21 16:59:59", &["2026-11-21 17:00"]),
        ("0 11 * * *", "Asia/Tokyo", "2026-07-01 10:00", &["2026-07-02 02:00"]),
        ("0 11 * * *", "America/New_York", "2026-07-01 10:00", &["2026-07-01 15:00"]),
        ("0 11 * * *", "Europe/Tallinn", "2026-07-01 10:00", &["2026-07-02 08:00"]),
        (
            "*/10 * * * *",
            "Asia/Kathmandu",
            "2026-11-21 12:03",
            &["2026-11-21 12:05", "2026-11-21 12:15", "2026-11-21 12:25"],
        ),
        ("0 * * * *", "Asia/Kolkata", "2026-11-21 12:00", &["2026-11-21 12:30", "2026-11-21 13:30", "2026-11-21 14:30"]),
        ("30 1 * * *", LONDON, "2027-03-27 12:00", &["2027-03-28 01:30", "2027-03-29 00:30", "2027-03-30 00:30"]),
        ("30 1 * * *", LONDON, "2027-10-30 12:00", &["2027-10-31 00:30", "2027-11-01 01:30"]),
        ("0 * * * *", LONDON, "2027-03-28 00:10", &["2027-03-28 01:00", "2027-03-28 02:00", "2027-03-28 03:00"]),
        ("*/30 * * * *", LONDON, "2027-10-31 00:10", &["2027-10-31 00:30", "2027-10-31 01:00", "2027-10-31 01:30"]),
        ("0 0 29 2 *", "UTC", "2026-11-21", &["2028-02-29", "2032-02-29", "2036-02-29"]),
        ("0 0 13 * 5", "UTC", "2026-11-21", &["2026-11-27", "2026-12-04", "2026-12-11", "2026-12-13"]),
        ("0 0 */2 * 1", "UTC", "2026-11-21", &["2026-11-23", "2026-11-25", "2026-11-27"]),
        ("0 0 * * 7", "UTC", "2026-11-21", &["2026-11-22", "2026-11-29", "2026-12-06"]),
        ("0 0 31 * *", "UTC", "2026-11-21", &["2026-12-31", "2027-01-31", "2027-03-31"]),
        (
            "0 9-17/4 * * mon-fri",
            "UTC",
            "2026-11-20 17:30",
            &["2026-11-23 09:00", "2026-11-23 13:00", "2026-11-23 17:00"],
        ),
    ]);
}

#[test]
fn grammar() {
    const NOW: &str = "2026-11-21 12:00"; // a Saturday
    check(&[
        ("5/15 12 * * *", "UTC", NOW, &["2026-11-21 12:05", "2026-11-21 12:20", "2026-11-21 12:35", "2026-11-21 12:50"]),
        ("0 0 * * 5-7", "UTC", NOW, &["2026-11-22", "2026-11-27", "2026-11-28", "2026-11-29"]),
        ("0 0 * * Fri-SUN", "UTC", NOW, &["2026-11-22", "2026-11-27", "2026-11-28", "2026-11-29"]),
        ("0 0 * * sun-mon", "UTC", NOW, &["2026-11-22", "2026-11-23", "2026-11-29"]),
        ("0 0 * * 5/1", "UTC", NOW, &["2026-11-27", "2026-11-28", "2026-12-04"]),
        ("0 0 * * 7/2", "UTC", NOW, &["2026-11-22", "2026-11-29"]),
        ("0 0 * * */2", "UTC", NOW, &["2026-11-22", "2026-11-24", "2026-11-26", "2026-11-28"]),
        ("0 0 L * *", "UTC", NOW, &["2026-11-30", "2026-12-31", "2027-01-31", "2027-02-28"]),
        ("0 0 l feb *", "UTC", NOW, &["2027-02-28", "2028-02-29", "2029-02-28"]),
        ("0 0 15,L * *", "UTC", NOW, &["2026-11-30", "2026-12-15", "2026-12-31"]),
        ("0 0 L 11 2", "UTC", NOW, &["2026-11-24", "2026-11-30", "2027-11-02"]),
        ("0 0 31 2 0", "UTC", NOW, &["2027-02-07", "2027-02-14", "2027-02-21", "2027-02-28", "2028-02-06"]),
        ("0 0 1-31 * 1", "UTC", NOW, &["2026-11-22", "2026-11-23", "2026-11-24"]),
        ("0 0 * JAN,Dec *", "UTC", "2026-12-30 12:00", &["2026-12-31", "2027-01-01"]),
        (" 0\t0  01 007 * ", "UTC", NOW, &["2027-07-01"]),
        ("@hourly", "UTC", NOW, &["2026-11-21 13:00"]),
        ("@daily", "UTC", NOW, &["2026-11-22", "2026-11-23"]),
        ("@midnight", "UTC", NOW, &["2026-11-22"]),
        ("@weekly", "UTC", NOW, &["2026-11-22", "2026-11-29"]),
        (" @monthly ", "UTC", NOW, &["2026-12-01"]),
        ("@yearly", "UTC", NOW, &["2027-01-01", "2028-01-01"]),
        ("@annually", "UTC", NOW, &["2027-01-01"]),
        ("* * * * *", "UTC", "2026-11-21 12:00:59.999", &["2026-11-21 12:01", "2026-11-21 12:02"]),
    ]);
}

#[test]
fn clock_changes() {
    const HOWE: &str = "Australia/Lord_Howe"; // jumps half an hour at 02:00
    check(&[
        // Fixed times in the hour that New York skips, and a regular run in the midst of the moved ones.
        ("30 2 * * *", "America/New_York", "2027-03-14 05:00", &["2027-03-14 07:30", "2027-03-15 06:30"]),
        ("0,15 2,3 * * *", "America/New_York", "2027-03-14 05:00", &["2027-03-14 07:00", "2027-03-14 07:15"]),
        ("*/30 2 * * *", "America/New_York", "2027-03-14 05:00", &["2027-03-14 07:00", "2027-03-14 07:30"]),
        ("45 1,2 * * *", "Europe/London", "2027-03-28 01:44:59", &["2027-03-28 01:45", "2027-03-29 00:45"]),
        ("30 1 28 3 *", "Europe/London", "2027-03-28 01:29:59", &["2027-03-28 01:30", "2028-03-28 00:30"]),
        // The repeated hour, from within its second half.
        ("30 1 * * *", "Europe/London", "2027-10-31 01:10", &["2027-11-01 01:30"]),
        ("0-59 1 * * *", "Europe/London", "2027-10-31 00:58", &["2027-10-31 00:59", "2027-11-01 01:00"]),
        ("*/20 1 31 10 *", "Europe/London", "2027-10-31 00:30", &["2027-10-31 00:40", "2027-10-31 01:00"]),
        ("30 */1 * * *", "Europe/London", "2027-10-30 23:40", &["2027-10-31 00:30", "2027-10-31 01:30", "2027-10-31 02:30"]),
        ("30 0-23 * * *", "Europe/London", "2027-10-30 23:40", &["2027-10-31 00:30", "2027-10-31 02:30"]),
        ("0 2 * * *", HOWE, "2027-10-02 12:00", &["2027-10-02 15:30", "2027-10-03 15:00"]),
        ("15 2 * * *", HOWE, "2027-10-02 12:00", &["2027-10-02 15:45", "2027-10-03 15:15"]),
        ("45 1 * * *", HOWE, "2027-04-03 12:00", &["2027-04-03 14:45", "2027-04-04 15:15"]),
        ("*/15 * * * *", HOWE, "2027-04-03 14:40", &["2027-04-03 14:45", "2027-04-03 15:00", "2027-04-03 15:15"]),
        // Midnight does not exist.
        ("0 0 * * *", "America/Havana", "2027-03-14 00:00", &["2027-03-14 05:00", "2027-03-15 04:00"]),
        ("0 0 * * *", "Africa/Cairo", "2027-04-29 12:00", &["2027-04-29 22:00", "2027-04-30 21:00"]),
        ("0 0 * * *", "Asia/Beirut", "2027-03-27 12:00", &["2027-03-27 22:00", "2027-03-28 21:00"]),
        ("0 0 * * sun", "Asia/Beirut", "2027-03-27 12:00", &["2027-03-27 22:00", "2027-04-03 21:00"]),
        // Midnight occurs twice.
        ("0 0 * * *", "America/Havana", "2027-11-07 00:00", &["2027-11-07 04:00", "2027-11-08 05:00"]),
        // Apia had no 30 December 2011.
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-29 12:00", &["2011-12-30 22:00", "2012-12-29 22:00"]),
        ("0 12 * * *", "Pacific/Apia", "2011-12-29 12:00", &["2011-12-29 22:00", "2011-12-30 22:00", "2011-12-31 22:00"]),
        ("0 12 * * fri", "Pacific/Apia", "2011-12-29 12:00", &["2011-12-30 22:00", "2012-01-05 22:00"]),
        ("0 18 30 12 *", "Pacific/Apia", "2011-12-31 03:30", &["2011-12-31 04:00"]),
    ]);
}

#[test]
fn far_away_and_at_the_ends_of_time() {
    check(&[
        ("0 0 29 2 *", "UTC", "2096-02-29", &["2104-02-29", "2108-02-29"]),
        ("0 0 29 2 *", "UTC", "2396-03-01", &["2400-02-29", "2404-02-29"]),
        ("0 0 * * mon", "UTC", "2100-12-31", &["2101-01-03", "2101-01-10"]),
        ("0 0 L 2 *", "UTC", "2099-03-01", &["2100-02-28", "2101-02-28"]),
        ("59 23 31 12 *", "UTC", "9998-12-31 23:59", &["9999-12-31 23:59"]),
        ("0 0 1 1 *", "UTC", "0001-01-01", &["0002-01-01"]),
    ]);
    let every_minute = parse("* * * * *");
    assert_eq!(every_minute.next_after(at("9999-12-31 23:59"), Tz::UTC), None);
    assert_eq!(every_minute.upcoming(at("9999-12-31 23:57:30"), Tz::UTC, usize::MAX).len(), 2);
    assert!(every_minute.upcoming(at("2026-11-21"), Tz::UTC, 0).is_empty());
    for now in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
        for zone in chrono_tz::TZ_VARIANTS {
            assert_eq!(every_minute.next_after(now, zone), None);
        }
    }
    for zone in chrono_tz::TZ_VARIANTS {
        let (first, last) = (at("0001-01-01"), at("9999-12-31 23:58"));
        assert!(every_minute.next_after(first, zone) > Some(first), "{zone}");
        assert!(every_minute.next_after(last, zone) > Some(last), "{zone}");
    }
}

#[test]
fn refused_texts_and_reasons() {
    const CASES: &[(&str, &str)] = &[
        ("", "this one has 0"),
        ("wrong schedule", "this one has 2"),
        ("* * * *", "this one has 4"),
        ("* * * * * *", "this one has 6"),
        ("*/59", "this one has 1"),
        ("hello world", "this one has 2"),
        ("@reboot", "allowed are @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually"),
        ("@daily 5", "\"@daily 5\" is unknown"),
        ("60 * * * *", "The minute field: \"60\" is not one of its values. Allowed are 0 to 59, *"),
        ("* 24 * * *", "The hour field: \"24\""),
        ("* * 0 * *", "The day of month field: \"0\" is not one of its values. Allowed are 1 to 31, L for the last day"),
        ("* * 32 * *", "The day of month field"),
        ("* * * 0 *", "The month field: \"0\""),
        ("* * * 13 *", "Allowed are 1 to 12, names jan to dec"),
        ("* * * * 8", "The day of week field: \"8\" is not one of its values. Allowed are 0 to 7, names sun to sat"),
        ("* * * * monday", "\"monday\""),
        ("* * * * L", "\"L\""),
        ("* * L-3 * *", "L stands alone"),
        ("* * 1-L * *", "L stands alone"),
        ("* * L/2 * *", "L stands alone"),
        ("* * ? * *", "\"?\""),
        ("jan * * * *", "\"jan\""),
        ("30-10 * * * *", "the range \"30-10\" runs backwards"),
        ("* 22-2 * * *", "the range \"22-2\" runs backwards"),
        ("* * * * fri-mon", "the range \"fri-mon\" runs backwards"),
        ("* * * * 6-0", "the range \"6-0\" runs backwards"),
        ("* * * nov-feb *", "runs backwards"),
        ("*/0 * * * *", "the step \"0\" is not a number from 1 to 59"),
        ("*/60 * * * *", "the step \"60\""),
        ("*/ * * * *", "the step \"\""),
        ("*/-1 * * * *", "the step \"-1\""),
        ("*/1/1 * * * *", "the step \"1/1\""),
        ("/5 * * * *", "a value is missing"),
        ("1,,2 * * * *", "a value is missing"),
        ("1, * * * *", "a value is missing"),
        ("-5 * * * *", "a value is missing"),
        ("5- * * * *", "a value is missing"),
        ("1-2-3 * * * *", "\"2-3\""),
        ("+5 * * * *", "\"+5\""),
        ("*-5 * * * *", "\"*\""),
        ("99999999999999999999999 * * * *", "is not one of its values"),
        ("*/99999999999999999999999 * * * *", "is not a number from 1 to 59"),
        ("٣ * * * *", "is not one of its values"),
        ("*\u{a0}* * * *", "this one has 4"),
        ("0 0 31 2 *", "never matches"),
        ("0 0 30,31 feb *", "never matches"),
        ("0 0 31 2,4,6,9,11 *", "never matches"),
    ];
    for (text, reason) in CASES {
        let message = CronSchedule::parse(text).map(|_| ()).expect_err(text).to_string();
        assert!(message.contains(reason), "{text:?}: {message}");
    }
}

#[test]
fn length_limit() {
    let fits = format!("{:100}", "0 2 * * *");
    assert!(CronSchedule::parse(&fits).is_ok());
    let message = CronSchedule::parse(&format!("{fits} ")).map(|_| ()).expect_err("101 characters").to_string();
    assert_eq!(message, "A schedule has at most 100 characters; this one has 101.");
}

#[test]
fn zone_names() {
    for name in ["UTC", "Europe/London", "Asia/Calcutta", "Etc/GMT+5", "EST"] {
        assert_eq!(parse_zone(name).map(|zone| zone.name()), Some(name));
    }
    for name in ["", "incorrect", "europe/london", "utc", "Europe/London ", "+01:00", "Europe"] {
        assert_eq!(parse_zone(name), None, "{name:?}");
    }
}

#[test]
fn zones_keep_their_last_offset_after_the_compiled_rules() {
    check(&[("0 12 1 7 *", "Europe/London", "2101-01-01", &["2101-07-01 12:00"])]);
    check(&[("0 12 1 7 *", "Europe/London", "2095-01-01", &["2095-07-01 11:00"])]);
}

#[test]
fn descriptions() {
    for (text, expected) in [
        ("1 1 1 1 1", "at 01:01 on day 1 of the month or on Monday, in January"),
        ("* * * * *", "every minute"),
        ("*/5 * * * *", "every 5 minutes"),
        ("0,30 * * * *", "every 30 minutes"),
        ("@hourly", "every hour"),
        ("0 */2 * * *", "every 2 hours"),
        ("5 * * * *", "at minute 5 of every hour"),
        ("5/10 * * * *", "at minutes 5 to 55 in steps of 10 of every hour"),
        ("*/7 * * * *", "at minutes 0 to 56 in steps of 7 of every hour"),
        ("0 2 * * *", "at 02:00 every day"),
        ("0 */4 * * *", "at 00:00, 04:00, 08:00, 12:00, 16:00 and 20:00 every day"),
        ("30 */3 * * *", "at minute 30 of hours 0 to 21 in steps of 3 every day"),
        ("0 9-17 * * *", "at minute 0 of hours 9 to 17 every day"),
        ("*/5 9-17 * * 1-5", "every 5 minutes of hours 9 to 17 on Monday to Friday"),
        ("* 9 * * *", "every minute of hour 9 every day"),
        ("0 9-17/4 * * mon-fri", "at 09:00, 13:00 and 17:00 on Monday to Friday"),
        ("0 0,12 1,15 * 1-5", "at 00:00 and 12:00 on days 1 and 15 of the month or on Monday to Friday"),
        ("0 2 * * 4", "at 02:00 on Thursday"),
        ("0 2 * * 0,6", "at 02:00 on Saturday and Sunday"),
        ("0 2 * * 5-7", "at 02:00 on Friday to Sunday"),
        ("@weekly", "at 00:00 on Sunday"),
        ("@monthly", "at 00:00 on day 1 of the month"),
        ("@yearly", "at 00:00 on day 1 of the month, in January"),
        ("0 0 L * *", "at 00:00 on the last day of the month"),
        ("0 0 1,L * *", "at 00:00 on day 1 of the month or on the last day of the month"),
        ("0 0 */2 * *", "at 00:00 on days 1 to 31 in steps of 2 of the month"),
        ("0 0 1-7,15 6-8,12 *", "at 00:00 on days 1 to 7 and 15 of the month, in June to August and December"),
        ("0 0 1-31 * 1", "at 00:00 every day"),
        ("0 0 1 * 0-7", "at 00:00 every day"),
        ("*/10 * * 6,7 *", "every 10 minutes, in June and July"),
        ("0 * * * sat", "every hour on Saturday"),
    ] {
        assert_eq!(parse(text).describe(), expected, "{text}");
    }
}

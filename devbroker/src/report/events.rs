//! Events as lines.

use super::clean;
use devbroker::api::EventView;
use std::fmt::Write;

/// One event, one line: when, what, how long after its cause.
pub(crate) fn event(event: &EventView) -> String {
    let mut line = format!(
        "{}  {:<17}  {}",
        time(event.time),
        event.kind,
        clean(&event.message)
    );
    if let Some(after) = event.after {
        write!(line, "  (+{after} us)").ok();
    }
    line + "\n"
}

/// What a slow reader missed.
pub(crate) fn lost(count: u64) -> String {
    format!("({count} events were missed: this reader was too slow)\n")
}

/// Microseconds since 1970 as a date and time in UTC.
fn time(microseconds: u64) -> String {
    let seconds = microseconds / 1_000_000;
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let leap = |year: u64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    // A date far off is not worth a loop of its length.
    while days >= 365 + u64::from(leap(year)) && year < 9999 {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!(
        "{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        days + 1,
        rest / 3600,
        rest / 60 % 60,
        rest % 60,
        microseconds % 1_000_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000007Z"),
            (951_868_800, "2000-03-01T00:00:00.000007Z"),
            (1_704_067_199, "2023-12-31T23:59:59.000007Z"),
            (1_795_413_600, "2026-11-23T06:00:00.000007Z"),
        ] {
            assert_eq!(time(seconds * 1_000_000 + 7), text);
        }
        assert!(time(u64::MAX).starts_with("9999-"));
    }
}

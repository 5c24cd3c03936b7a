//! Ranges of the monitoring plugins, for `--warning` and `--critical`
//! (<https://www.monitoring-plugins.org/doc/guidelines.html#THRESHOLDFORMAT>).

use std::fmt;
use std::str::FromStr;

/// A range of values that are fine, or with `@` of values that are not.
///
/// | text | alerts where the value is |
/// |---|---|
/// | `10` | below 0 or above 10 |
/// | `10:` | below 10 |
/// | `~:10` | above 10 |
/// | `10:20` | below 10 or above 20 |
/// | `@10:20` | from 10 to 20, ends included |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    start: f64,
    end: f64,
    inside: bool,
}

/// A range that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// A bound is no number.
    #[error("bad range \"{range}\": \"{bound}\" is not a number (examples: 10, 10:, ~:10, @10:20)")]
    NotANumber {
        /// The whole text.
        range: String,
        /// The part that is no number.
        bound: String,
    },
    /// The start is above the end.
    #[error("bad range \"{0}\": its start is above its end")]
    Reversed(String),
}

impl Range {
    /// Whether `value` is outside of the range; with `@`, inside of it.
    #[must_use]
    pub fn alerts(&self, value: f64) -> bool {
        (self.start..=self.end).contains(&value) == self.inside
    }
}

impl FromStr for Range {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (inside, bounds) = match text.strip_prefix('@') {
            Some(bounds) => (true, bounds),
            None => (false, text),
        };
        let number = |bound: &str| match bound.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(Error::NotANumber { range: text.to_owned(), bound: bound.to_owned() }),
        };
        let (start, end) = match bounds.split_once(':') {
            Some(("~", "")) => (f64::NEG_INFINITY, f64::INFINITY),
            Some(("~", end)) => (f64::NEG_INFINITY, number(end)?),
            Some((start, "")) => (number(start)?, f64::INFINITY),
            Some((start, end)) => (number(start)?, number(end)?),
            None => (0.0, number(bounds)?),
        };
        if start > end {
            return Err(Error::Reversed(text.to_owned()));
        }
        Ok(Self { start, end, inside })
    }
}

impl fmt::Display for Range {
    /// The shortest text that reads back as the same range.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.inside {
            f.write_str("@")?;
        }
        if self.start == f64::NEG_INFINITY {
            f.write_str("~:")?;
        } else if self.start != 0.0 || self.end == f64::INFINITY {
            write!(f, "{}:", self.start)?;
        }
        if self.end == f64::INFINITY { Ok(()) } else { write!(f, "{}", self.end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    #[test]
    fn alerts_as_the_guideline_says() {
        // Text, values that are fine, values that alert.
        let cases: [(&str, &[f64], &[f64]); 11] = [
            ("10", &[0.0, 5.0, 10.0], &[-0.1, 10.1]),
            ("10:", &[10.0, 1e9], &[9.9, -1.0]),
            ("~:10", &[-1e9, 10.0], &[10.1]),
            ("10:20", &[10.0, 15.0, 20.0], &[9.9, 20.1]),
            ("@10:20", &[9.9, 20.1], &[10.0, 15.0, 20.0]),
            ("@10", &[-1.0, 10.1], &[0.0, 10.0]),
            ("@~:10", &[10.1], &[-1e9, 10.0]),
            ("0", &[0.0], &[1.0, -1.0]),
            ("-5:-2.5", &[-5.0, -3.0], &[-2.0, -6.0]),
            ("~:", &[-1e9, 1e9], &[]),
            ("0:", &[0.0, 1e9], &[-1.0]),
        ];
        for (text, fine, alerting) in cases {
            assert!(fine.iter().all(|value| !range(text).alerts(*value)), "{text}");
            assert!(alerting.iter().all(|value| range(text).alerts(*value)), "{text}");
        }
    }

    #[test]
    fn display_reads_back() {
        for text in ["10", "10:", "~:10", "10:20", "@10:20", "~:", "0:", "@~:-3", "0.5:1.25"] {
            assert_eq!(range(text).to_string(), text);
        }
        assert_eq!(range("0:10").to_string(), "10");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "@", ":", ":10", "x", "10:x", "1:2:3", "10 20", "nan", "inf", "~", "5:~"] {
            assert!(
                matches!(text.parse::<Range>(), Err(Error::NotANumber { .. })),
                "{text:?} was taken"
            );
        }
        assert_eq!("20:10".parse::<Range>(), Err(Error::Reversed("20:10".to_owned())));
        assert_eq!(
            "10:x".parse::<Range>().unwrap_err().to_string(),
            "bad range \"10:x\": \"x\" is not a number (examples: 10, 10:, ~:10, @10:20)"
        );
    }
}

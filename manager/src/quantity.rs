//! Amounts as a person writes them: sizes, counts and percentages, read exactly and written so that they read the same. Owns
//! the units; which key takes which amount is the definition's. Pure.

use std::fmt;
use std::str::FromStr;

/// The page that `131072p` counts in: that of OpenVZ's files and of every kernel that had them.
const PAGE: u64 = 4096;
/// No more digits behind the point of a size.
const MAX_DECIMALS: usize = 12;
/// Parts per million: four digits behind the point of a percentage.
const MILLION: u64 = 1_000_000;
/// What one percent is in parts per million.
const PERCENT: u64 = MILLION / 100;
const PERCENT_DECIMALS: usize = 4;
const FACTOR_DECIMALS: usize = 6;
/// The units of sizes, the largest first.
const UNITS: [(char, u64); 4] = [('T', 1 << 40), ('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];
/// The word for an amount without an end.
const UNLIMITED: &str = "unlimited";

/// A text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuantityError {
    #[error("`{0}` is no size; write it as in `512M`, `1.5G`, `131072p` (pages), `10%` or `unlimited`")]
    Size(String),
    #[error("`{0}` is no number of things; write it as in `200` or `unlimited`")]
    Count(String),
    #[error("`{0}` is no percentage; write it as in `150%` or `12.5%`")]
    Percent(String),
    #[error("`{0}` is no factor; write it as in `1.5` or `150%`")]
    Factor(String),
    #[error("`{0}` is a part of a byte; write whole bytes, or a unit as in `1.5K`")]
    PartOfByte(String),
    #[error("`{text}` has more than {most} digits behind the point; write it with fewer")]
    Decimals { text: String, most: usize },
    #[error("`{0}` is more than can be counted; write `unlimited` where no limit is meant")]
    TooLarge(String),
}

/// An amount of bytes or things, or no limit. No limit is more than any amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Limit {
    /// So much and no more.
    At(u64),
    /// No limit.
    Unlimited,
}

impl Limit {
    /// The amount, where there is one.
    pub(crate) fn at(self) -> Option<u64> {
        match self {
            Self::At(amount) => Some(amount),
            Self::Unlimited => None,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(amount) => amount.fmt(f),
            Self::Unlimited => f.write_str(UNLIMITED),
        }
    }
}

impl FromStr for Limit {
    type Err = QuantityError;

    /// A count of things: digits alone, or `unlimited`. Sizes are read by [`Size`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_unlimited(text) {
            return Ok(Self::Unlimited);
        }
        if !is_digits(text) {
            return Err(QuantityError::Count(text.into()));
        }
        match text.parse() {
            Ok(count) => Ok(Self::At(count)),
            Err(_) => Err(QuantityError::TooLarge(text.into())),
        }
    }
}

/// A size as it is written: bytes, a share of something that is known elsewhere, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Size {
    /// So many bytes.
    Bytes(u64),
    /// A share of the host's.
    Share(Percent),
    /// No limit.
    Unlimited,
}

impl Size {
    /// What it comes to where the whole has `whole` bytes; a share is rounded down, and too large a one is no limit.
    pub(crate) fn of(self, whole: u64) -> Limit {
        match self {
            Self::Bytes(bytes) => Limit::At(bytes),
            Self::Share(percent) => percent.of(whole).map_or(Limit::Unlimited, Limit::At),
            Self::Unlimited => Limit::Unlimited,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => match UNITS.iter().find(|(_, unit)| *bytes != 0 && bytes % unit == 0) {
                Some((name, unit)) => write!(f, "{}{name}", bytes / unit),
                None => bytes.fmt(f),
            },
            Self::Share(percent) => percent.fmt(f),
            Self::Unlimited => f.write_str(UNLIMITED),
        }
    }
}

impl FromStr for Size {
    type Err = QuantityError;

    /// A number with a unit: K, M, G and T are powers of 1024, with or without `B` or `iB` behind, in any case; `p` is pages
    /// of 4 KiB; no unit, or `B`, is bytes. What is less than a byte of a decimal number is dropped: `2.2G` is 2362232012.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_unlimited(text) {
            return Ok(Self::Unlimited);
        }
        if text.ends_with('%') {
            return text.parse().map(Self::Share);
        }
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.trim_start().to_ascii_lowercase();
        let plain = unit
            .strip_suffix("ib")
            .or_else(|| unit.strip_suffix('b'))
            .unwrap_or(&unit);
        let factor = match (plain, unit.as_str()) {
            ("", "" | "b") => 1,
            ("p", "p") => PAGE,
            (plain, _) => UNITS
                .iter()
                .find(|(name, _)| plain.chars().eq([name.to_ascii_lowercase()]))
                .map(|(_, factor)| *factor)
                .ok_or_else(|| QuantityError::Size(text.into()))?,
        };
        let decimal =
            Decimal::read(number, MAX_DECIMALS, text)?.ok_or_else(|| QuantityError::Size(text.into()))?;
        if factor == 1 && decimal.fraction != 0 {
            return Err(QuantityError::PartOfByte(text.into()));
        }
        let bytes = decimal.times(factor);
        bytes
            .map(Self::Bytes)
            .ok_or_else(|| QuantityError::TooLarge(text.into()))
    }
}

/// A percentage, exact to four digits behind the point; it may be more than 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Percent {
    /// Parts per million.
    millionths: u64,
}

impl Percent {
    /// A whole percentage.
    pub(crate) const fn whole(percent: u32) -> Self {
        Self {
            millionths: percent as u64 * PERCENT,
        }
    }

    /// In parts per million: 150% is 1500000.
    pub(crate) fn millionths(self) -> u64 {
        self.millionths
    }

    /// So many times this, divided among so many; rounded down.
    pub(crate) fn part(self, times: u32, among: u32) -> Self {
        Self {
            millionths: self.millionths.saturating_mul(u64::from(times)) / u64::from(among.max(1)),
        }
    }

    /// So much of `whole`, rounded down; none where that is more than can be counted.
    pub(crate) fn of(self, whole: u64) -> Option<u64> {
        let part = u128::from(whole) * u128::from(self.millionths) / u128::from(MILLION);
        u64::try_from(part).ok()
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.millionths / PERCENT, self.millionths % PERCENT);
        if rest == 0 {
            return write!(f, "{whole}%");
        }
        let rest = format!("{rest:0PERCENT_DECIMALS$}");
        write!(f, "{whole}.{}%", rest.trim_end_matches('0'))
    }
}

impl FromStr for Percent {
    type Err = QuantityError;

    /// A decimal number and `%`, which may be left out.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.strip_suffix('%').unwrap_or(text).trim_end();
        let decimal = Decimal::read(number, PERCENT_DECIMALS, text)?
            .ok_or_else(|| QuantityError::Percent(text.into()))?;
        let millionths = decimal.times(PERCENT);
        millionths
            .map(|millionths| Self { millionths })
            .ok_or_else(|| QuantityError::TooLarge(text.into()))
    }
}

/// How many times as much: a decimal number or a percentage, as in `1.5` or `150%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Factor(Percent);

impl Factor {
    /// So many hundredths.
    pub(crate) const fn hundredths(hundredths: u32) -> Self {
        Self(Percent::whole(hundredths))
    }

    /// So many times `amount`, rounded down; none where that is more than can be counted.
    pub(crate) fn of(self, amount: u64) -> Option<u64> {
        self.0.of(amount)
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0.millionths / MILLION, self.0.millionths % MILLION);
        if rest == 0 {
            return whole.fmt(f);
        }
        let rest = format!("{rest:0FACTOR_DECIMALS$}");
        write!(f, "{whole}.{}", rest.trim_end_matches('0'))
    }
}

impl FromStr for Factor {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.ends_with('%') {
            return text.parse().map(Self);
        }
        let decimal =
            Decimal::read(text, FACTOR_DECIMALS, text)?.ok_or_else(|| QuantityError::Factor(text.into()))?;
        let millionths = decimal.times(MILLION);
        millionths
            .map(|millionths| Self(Percent { millionths }))
            .ok_or_else(|| QuantityError::TooLarge(text.into()))
    }
}

/// `whole` and `fraction` of the `scale`th part.
struct Decimal {
    whole: u64,
    fraction: u64,
    scale: u64,
}

impl Decimal {
    /// Digits, which may have a point and `most` further digits; nothing if they are none. `text` is what the person wrote.
    fn read(number: &str, most: usize, text: &str) -> Result<Option<Self>, QuantityError> {
        let (whole, fraction) = match number.split_once('.') {
            Some((_, "")) => return Ok(None),
            Some((whole, fraction)) => (whole, fraction.trim_end_matches('0')),
            None => (number, ""),
        };
        if !is_digits(whole) || !(fraction.is_empty() || is_digits(fraction)) {
            return Ok(None);
        }
        if fraction.len() > most {
            return Err(QuantityError::Decimals {
                text: text.into(),
                most,
            });
        }
        let too_large = || QuantityError::TooLarge(text.into());
        let mut decimal = Self {
            whole: whole.parse().map_err(|_| too_large())?,
            fraction: 0,
            scale: 1,
        };
        for digit in fraction.bytes() {
            decimal.fraction = decimal.fraction * 10 + u64::from(digit - b'0');
            decimal.scale *= 10;
        }
        Ok(Some(decimal))
    }

    /// So many times `factor`, rounded down; none if that overflows.
    fn times(&self, factor: u64) -> Option<u64> {
        let fraction = u128::from(self.fraction) * u128::from(factor) / u128::from(self.scale);
        self.whole
            .checked_mul(factor)?
            .checked_add(u64::try_from(fraction).ok()?)
    }
}

fn is_unlimited(text: &str) -> bool {
    text.eq_ignore_ascii_case(UNLIMITED)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const G: u64 = 1 << 30;

    #[test]
    fn sizes() {
        for (text, bytes, shown) in [
            ("0", 0, "0"),
            ("4096", 4096, "4K"),
            ("1000", 1000, "1000"),
            ("7b", 7, "7"),
            ("512M", 512 << 20, "512M"),
            ("512m", 512 << 20, "512M"),
            ("512 MiB", 512 << 20, "512M"),
            ("512MB", 512 << 20, "512M"),
            ("1.5G", G + G / 2, "1536M"),
            ("1.50GiB", G + G / 2, "1536M"),
            ("2.2G", 2_362_232_012, "2362232012"),
            ("0.000000000001T", 1, "1"),
            ("2t", 2 << 40, "2T"),
            ("131072p", 512 << 20, "512M"),
            ("13309P", 13309 * 4096, "53236K"),
            ("18446744073709551615", u64::MAX, "18446744073709551615"),
            ("16777215T", 16_777_215 << 40, "16777215T"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size, Size::Bytes(bytes), "{text}");
            assert_eq!(size.to_string(), shown, "{text}");
            assert_eq!(size.of(1), Limit::At(bytes));
        }
        for text in ["unlimited", "Unlimited"] {
            assert_eq!(text.parse::<Size>(), Ok(Size::Unlimited));
        }
        assert_eq!(Size::Unlimited.to_string(), "unlimited");
        assert_eq!(Size::Unlimited.of(1), Limit::Unlimited);
        let tenth = "10%".parse::<Size>().unwrap();
        assert_eq!(tenth, Size::Share(Percent::whole(10)));
        assert_eq!(tenth.to_string(), "10%");
        assert_eq!(tenth.of(3 * G), Limit::At(322_122_547));
        assert_eq!("200%".parse::<Size>().unwrap().of(u64::MAX), Limit::Unlimited);
    }

    #[test]
    fn what_is_no_size() {
        let size = |text: &str| text.parse::<Size>().unwrap_err();
        for text in [
            "", " ", "M", ".5G", "5.", "5.G", "1.2.3G", "-1", "+1", "1e9", "1E", "5X", "5iB", "5pB", "5MM",
            "5Mi", "1,5G", "512M ", " 512M", "0x10", "1_000", "max", "none", "%", "-5%", "٣", "5Ki B",
        ] {
            let error = size(text);
            assert!(
                matches!(&error, QuantityError::Size(_) | QuantityError::Percent(_)),
                "{text}: {error:?}"
            );
        }
        assert_eq!(size("1.5"), QuantityError::PartOfByte("1.5".into()));
        for text in ["18446744073709551616", "16777216T", "99999999999999999999G"] {
            assert_eq!(size(text), QuantityError::TooLarge(text.into()));
        }
        assert!(matches!(
            size("0.1234567890123G"),
            QuantityError::Decimals { most: 12, .. }
        ));
        // Zeros at the end are no digits more.
        assert_eq!("1.00000000000000G".parse::<Size>(), Ok(Size::Bytes(G)));
    }

    #[test]
    fn counts() {
        assert_eq!("200".parse(), Ok(Limit::At(200)));
        assert_eq!("unlimited".parse(), Ok(Limit::Unlimited));
        for bad in ["", "-1", "+1", "2.5", "2K", "max", "10%"] {
            assert_eq!(bad.parse::<Limit>(), Err(QuantityError::Count(bad.into())));
        }
        let huge = "18446744073709551616";
        assert_eq!(huge.parse::<Limit>(), Err(QuantityError::TooLarge(huge.into())));
        assert!(Limit::At(u64::MAX) < Limit::Unlimited);
        assert_eq!((Limit::At(3).at(), Limit::Unlimited.at()), (Some(3), None));
    }

    #[test]
    fn percentages() {
        for (text, millionths, shown) in [
            ("10%", 100_000, "10%"),
            ("150", 1_500_000, "150%"),
            ("12.5%", 125_000, "12.5%"),
            ("0.0001%", 1, "0.0001%"),
            ("0.01 %", 100, "0.01%"),
            ("0%", 0, "0%"),
        ] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!(
                (percent.millionths(), percent.to_string().as_str()),
                (millionths, shown)
            );
        }
        assert_eq!(Percent::whole(150).of(100_000), Some(150_000));
        assert!(matches!(
            "0.00001%".parse::<Percent>(),
            Err(QuantityError::Decimals { most: 4, .. })
        ));
        for bad in ["", "%", "10%%", "ten%", "-1%", "unlimited"] {
            assert_eq!(bad.parse::<Percent>(), Err(QuantityError::Percent(bad.into())));
        }
        assert!(matches!(
            "99999999999999999999%".parse::<Percent>(),
            Err(QuantityError::TooLarge(_))
        ));
    }

    #[test]
    fn factors() {
        for (text, of_1000, shown) in [
            ("1.5", 1500, "1.5"),
            ("150%", 1500, "1.5"),
            ("2", 2000, "2"),
            ("0.000001", 0, "0.000001"),
            ("1.000", 1000, "1"),
            ("12.5%", 125, "0.125"),
        ] {
            let factor: Factor = text.parse().unwrap();
            assert_eq!(
                (factor.of(1000), factor.to_string().as_str()),
                (Some(of_1000), shown)
            );
            assert_eq!(shown.parse(), Ok(factor));
        }
        assert_eq!(Factor::hundredths(150), "1.5".parse().unwrap());
        assert_eq!("2".parse::<Factor>().unwrap().of(u64::MAX), None);
        for bad in ["", "x", "-1", "1,5", "1.5x"] {
            assert_eq!(bad.parse::<Factor>(), Err(QuantityError::Factor(bad.into())));
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_the_same(bytes: u64, millionths: u64, kind in 0..3) {
            let size = match kind {
                0 => Size::Bytes(bytes),
                1 => Size::Share(Percent { millionths }),
                _ => Size::Unlimited,
            };
            prop_assert_eq!(size.to_string().parse(), Ok(size));
            let limit = size.of(bytes);
            prop_assert_eq!(limit.to_string().parse(), Ok(limit));
        }

        #[test]
        fn decimals_are_exact(thousandths in 0_u64..1 << 30, unit in 0_usize..4) {
            let (name, factor) = UNITS[unit];
            let text = format!("{}.{:03}{name}", thousandths / 1000, thousandths % 1000);
            let exact = u128::from(thousandths) * u128::from(factor) / 1000;
            prop_assert_eq!(text.parse(), Ok(Size::Bytes(u64::try_from(exact).unwrap())));
        }

        #[test]
        fn no_text_is_too_much(text in ".{0,24}") {
            for shown in [
                text.parse::<Size>().map(|size| size.to_string()),
                text.parse::<Limit>().map(|limit| limit.to_string()),
                text.parse::<Percent>().map(|percent| percent.to_string()),
            ].into_iter().flatten() {
                prop_assert!(shown.parse::<Size>().is_ok());
            }
        }

        #[test]
        fn a_share_is_no_more_than_the_whole(whole: u64, millionths in 0..=MILLION) {
            let part = Percent { millionths }.of(whole);
            prop_assert!(part.is_some_and(|part| part <= whole));
        }
    }
}

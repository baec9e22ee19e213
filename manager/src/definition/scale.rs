//! Multiplies the amounts of a profile: what says how much its container may hold. What says how fast it may be, what stands
//! in relation to others or to the host, and what is each process' own stays as it is. Pure.

use super::{Definition, Edit, EditError, KEYS};
use crate::quantity::{Factor, Limit, Size};
use std::collections::BTreeMap;
use toml_edit::{InlineTable, Value};

/// What a key counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Amount {
    Bytes,
    Things,
    /// Bytes by the size of the pages that they are in.
    HugePages,
}

/// The keys whose values are multiplied.
const SCALED: [(&str, Amount); 13] = [
    ("memory_guarantee", Amount::Bytes),
    ("memory_soft_guarantee", Amount::Bytes),
    ("memory_barrier", Amount::Bytes),
    ("memory_limit", Amount::Bytes),
    ("swap_limit", Amount::Bytes),
    ("processes", Amount::Things),
    ("ptys", Amount::Things),
    ("shm", Amount::Bytes),
    ("hugepages", Amount::HugePages),
    ("disk_space", Amount::Bytes),
    ("disk_space_soft", Amount::Bytes),
    ("disk_inodes", Amount::Things),
    ("disk_inodes_soft", Amount::Things),
];

/// What bytes are rounded to.
const PAGE: u64 = 4096;

/// An amount that cannot be multiplied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScaleError {
    #[error(
        "`{key}` would be {factor} times {value}, which is more than can be counted; use a smaller factor"
    )]
    TooLarge {
        key: &'static str,
        value: String,
        factor: Factor,
    },
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// The changes that multiply what `definition` says by these keys.
pub(crate) fn scale<O>(
    definition: &Definition,
    said: &BTreeMap<&'static str, O>,
    factor: Factor,
) -> Result<Vec<Edit>, ScaleError> {
    let mut edits = Vec::new();
    for key in KEYS.iter().filter(|key| said.contains_key(key.name)) {
        let Some((_, amount)) = SCALED.iter().find(|(name, _)| *name == key.name) else {
            continue;
        };
        let before = (key.show)(definition);
        let after = scaled(&before, *amount, factor).ok_or_else(|| ScaleError::TooLarge {
            key: key.name,
            value: before.to_string().trim().into(),
            factor,
        })?;
        if after.to_string() != before.to_string() {
            edits.push(Edit::new(key.name, Some(after))?);
        }
    }
    Ok(edits)
}

/// A value as it is shown, multiplied; none where that cannot be counted. What is no amount stays.
fn scaled(value: &Value, amount: Amount, factor: Factor) -> Option<Value> {
    match amount {
        Amount::Bytes => size(value, PAGE, factor),
        Amount::Things => {
            let text = value.as_str().map(str::to_owned);
            let text = text.or_else(|| value.as_integer().map(|number| number.to_string()))?;
            match text.parse() {
                // What there is one of cannot become none.
                Ok(Limit::At(count)) => {
                    let count = factor.of(count)?.max(count.min(1));
                    Some(i64::try_from(count).ok()?.into())
                }
                Ok(Limit::Unlimited) | Err(_) => Some(value.clone()),
            }
        }
        Amount::HugePages => {
            let mut table = InlineTable::new();
            for (page, value) in value.as_inline_table()? {
                let bytes = match page.parse() {
                    Ok(Size::Bytes(bytes)) => bytes,
                    Ok(Size::Share(_) | Size::Unlimited) | Err(_) => PAGE,
                };
                table.insert(page, size(value, bytes, factor)?);
            }
            Some(table.into())
        }
    }
}

/// A size, multiplied and rounded down to whole pages; less than a page is kept as it comes.
fn size(value: &Value, page: u64, factor: Factor) -> Option<Value> {
    let size = match (value.as_str(), value.as_integer()) {
        (Some(text), _) => text.parse().ok()?,
        (None, Some(bytes)) => Size::Bytes(u64::try_from(bytes).ok()?),
        (None, None) => return None,
    };
    match size {
        Size::Bytes(bytes) => {
            let bytes = factor.of(bytes)?;
            let bytes = if bytes < page { bytes } else { bytes / page * page };
            Some(Size::Bytes(bytes).to_string().into())
        }
        Size::Share(_) | Size::Unlimited => Some(value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{Text, key, parse_profile};
    use crate::layout::Layout;
    use proptest::prelude::*;
    use std::path::Path;

    fn scaled_text(text: &str, factor: &str) -> Result<String, String> {
        let text_of = Text {
            path: Path::new("p.toml"),
            bytes: text.as_bytes(),
        };
        let parsed = parse_profile(&"p".parse().unwrap(), text_of, &Layout::default()).unwrap();
        let edits = scale(&parsed.definition, &parsed.origins, factor.parse().unwrap());
        let edits = edits.map_err(|e| e.to_string())?;
        Ok(edits
            .iter()
            .fold(text.to_owned(), |text, edit| edit.apply(&text).unwrap()))
    }

    #[test]
    fn every_scaled_key_is_one() {
        for (name, _) in SCALED {
            assert!(key(name).is_some_and(|key| !key.identity), "{name}");
        }
    }

    #[test]
    fn amounts_and_nothing_else() {
        let text = "# mine\nmemory_guarantee = \"48M\" # his\nmemory_limit = 1048576\nmemory_barrier = \"10%\"\n\
                    swap_limit = \"unlimited\"\nprocesses = 3\nptys = 1\nshm = \"4097\"\n\
                    hugepages = { \"2M\" = \"6M\" }\n\
                    cpu_weight = 200\ncpu_limit = \"150%\"\nstop_timeout = 30\nrlimits = { nofile = 1024 }\n\
                    io_limits = [{ device = \"/dev/sda\", read_bytes = \"10M\" }]\noom_score_adj = 100\n\
                    disk_space = \"100M\"\ndisk_inodes_soft = 1000\ndisk_grace = \"7d\"\n";
        assert_eq!(
            scaled_text(text, "0.5").unwrap(),
            text.replace("48M", "24M")
                .replace("1048576", "\"512K\"")
                .replace("processes = 3", "processes = 1")
                .replace("100M", "50M")
                .replace("soft = 1000", "soft = 500")
                .replace("4097", "2K")
                .replace("\"2M\" = \"6M\"", "2M = \"2M\"")
        );
        assert_eq!(
            scaled_text(text, "150%").unwrap(),
            text.replace("48M", "72M")
                .replace("1048576", "\"1536K\"")
                .replace("processes = 3", "processes = 4")
                .replace("100M", "150M")
                .replace("soft = 1000", "soft = 1500")
                .replace("\"4097\"", "\"4K\"")
                .replace("\"2M\" = \"6M\"", "2M = \"8M\"")
        );
        assert_eq!(scaled_text(text, "1").unwrap(), text.replace("4097", "4K"));
        assert_eq!(
            scaled_text("memory_limit = \"16777215T\"", "2"),
            Err(
                "`memory_limit` would be 2 times \"16777215T\", which is more than can be counted; use a smaller factor"
                    .into()
            )
        );
    }

    proptest! {
        #[test]
        fn a_multiple_is_never_more(bytes in 0_u64..1 << 45, hundredths in 1_u32..1000) {
            let factor = Factor::hundredths(hundredths);
            let value = Size::Bytes(bytes).to_string().into();
            let scaled = scaled(&value, Amount::Bytes, factor).unwrap();
            let Ok(Size::Bytes(scaled)) = scaled.as_str().unwrap().parse() else { panic!("no size") };
            let exact = factor.of(bytes).unwrap();
            prop_assert!(scaled <= exact && exact - scaled < PAGE);
        }
    }
}

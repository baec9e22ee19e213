//! Reads the limits of a definition and shows them as it has them. Pure.

use super::limit::{
    IoLimit, MOST_INSTANCES, Numbers, NumbersError, OomScore, PageSize, Rlimit, SoftHard, Weight,
};
use super::value::{Fault, Value, absolute, list, string, table};
use crate::quantity::{Limit, Percent, QuantityError, Size};
use std::borrow::Cow;
use std::collections::BTreeMap;
use toml_edit::{Array, InlineTable};

/// The most that can be said of processors: a thousand of them.
const MAX_CPU: Percent = Percent::whole(100_000);
/// The least: the kernel gives no less than a millisecond in its period of a tenth of a second.
const MIN_CPU: Percent = Percent::whole(1);

const SIZE: &str = "as in \"512M\", \"1.5G\", \"10%\" (of the host's), \"131072p\" (pages), a number of bytes, or \"unlimited\"";

/// A whole number, where one is written.
fn integer(value: &Value<'_>) -> Option<i64> {
    let integer = value.get_ref().as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A text, or a whole number as one: `ctm set NAME cpus=3` and `memory_limit=4096` are typed without quotes.
fn text<'v>(value: &'v Value<'_>) -> Result<Cow<'v, str>, Fault> {
    match integer(value) {
        Some(number) => Ok(number.to_string().into()),
        None => string(value).map(Into::into),
    }
}

pub(super) fn size(value: &Value<'_>) -> Result<Size, Fault> {
    text(value)
        .map_err(|fault| fault.help(SIZE))?
        .parse()
        .map_err(|e: QuantityError| Fault::of(value, e.to_string()))
}

/// A size, or nothing for what is usual.
pub(super) fn size_or_usual(value: &Value<'_>) -> Result<Option<Size>, Fault> {
    match value.get_ref().as_str() {
        Some("") => Ok(None),
        _ => size(value).map(Some),
    }
}

/// A number of things, from 1 to `most`.
fn number_of(value: &Value<'_>, most: u64) -> Result<Limit, Fault> {
    const HELP: &str = "a number from 1, or \"unlimited\"";
    let limit = text(value)
        .map_err(|fault| fault.help(HELP))?
        .parse()
        .map_err(|e: QuantityError| Fault::of(value, e.to_string()))?;
    match limit {
        Limit::At(at) if at == 0 || at > most => {
            Err(Fault::of(value, format!("{at} is not between 1 and {most}")).help(HELP))
        }
        Limit::At(_) | Limit::Unlimited => Ok(limit),
    }
}

/// How many processes or terminals: the kernel numbers neither any higher (`PID_MAX_LIMIT`, `NR_UNIX98_PTY_MAX`).
pub(super) fn processes(value: &Value<'_>) -> Result<Limit, Fault> {
    number_of(value, 4_194_304)
}

pub(super) fn ptys(value: &Value<'_>) -> Result<Limit, Fault> {
    number_of(value, 1_048_576)
}

pub(super) fn inotify_instances(value: &Value<'_>) -> Result<Limit, Fault> {
    number_of(value, MOST_INSTANCES)
}

pub(super) fn weight(value: &Value<'_>) -> Result<Weight, Fault> {
    integer(value)
        .and_then(|number| Weight::new(u16::try_from(number).ok()?))
        .ok_or_else(|| Fault::of(value, "a weight is a number from 1 to 10000; 100 is usual"))
}

pub(super) fn cpu_limit(value: &Value<'_>) -> Result<Option<Percent>, Fault> {
    const HELP: &str = "percent of one processor, as in \"150%\" or 150 for one and a half, or \"unlimited\"";
    let text = text(value).map_err(|fault| fault.help(HELP))?;
    if text == "unlimited" {
        return Ok(None);
    }
    let percent = text
        .parse()
        .map_err(|e: QuantityError| Fault::of(value, e.to_string()).help(HELP))?;
    if (MIN_CPU..=MAX_CPU).contains(&percent) {
        Ok(Some(percent))
    } else {
        Err(Fault::of(value, format!("{percent} is not between {MIN_CPU} and {MAX_CPU}")).help(HELP))
    }
}

pub(super) fn numbers(value: &Value<'_>) -> Result<Numbers, Fault> {
    text(value)?
        .parse()
        .map_err(|e: NumbersError| Fault::of(value, e.to_string()))
}

pub(super) fn io_limits(value: &Value<'_>) -> Result<Vec<IoLimit>, Fault> {
    const HELP: &str = "as in `[{ device = \"/dev/sda\", write_bytes = \"10M\", write_ops = 100 }]`";
    const KNOWN: [&str; 5] = ["device", "read_bytes", "write_bytes", "read_ops", "write_ops"];
    let limits = list(value, HELP, |value| {
        let table = table(value, &KNOWN, HELP)?;
        let device = table
            .get("device")
            .ok_or_else(|| Fault::of(value, "`device` is missing").help(HELP))?;
        let rate = |key: &str| match table.get(key) {
            None => Ok(Size::Unlimited),
            Some(value) => match size(value)? {
                rate @ (Size::Bytes(1..) | Size::Unlimited) => Ok(rate),
                Size::Bytes(_) | Size::Share(_) => Err(Fault::of(
                    value,
                    "how much in a second is a size from 1 byte, no share",
                )),
            },
        };
        let operations = |key: &str| {
            let most = u32::MAX.into();
            table
                .get(key)
                .map_or(Ok(Limit::Unlimited), |value| number_of(value, most))
        };
        Ok(IoLimit {
            device: absolute(device, "the device")?,
            read_bytes: rate("read_bytes")?,
            write_bytes: rate("write_bytes")?,
            read_ops: operations("read_ops")?,
            write_ops: operations("write_ops")?,
        })
    })?;
    for (at, limit) in limits.iter().enumerate() {
        if limits.iter().take(at).any(|other| other.device == limit.device) {
            let message = format!(
                "{} is limited twice; say all of it at once",
                limit.device.display()
            );
            return Err(Fault::of(value, message));
        }
    }
    Ok(limits)
}

pub(super) fn rlimits(value: &Value<'_>) -> Result<BTreeMap<Rlimit, SoftHard>, Fault> {
    const HELP: &str = "as in `{ nofile = \"1024:4096\", core = 0 }`; `man getrlimit` lists them";
    let known = Rlimit::ALL.map(|(_, name)| name);
    let table = table(value, &known, HELP)?;
    Rlimit::ALL
        .iter()
        .filter_map(|(limit, name)| table.get(*name).map(|value| Ok((*limit, soft_hard(value)?))))
        .collect()
}

fn soft_hard(value: &Value<'_>) -> Result<SoftHard, Fault> {
    const HELP: &str = "SOFT:HARD or one for both, each a number or \"unlimited\"";
    let text = text(value).map_err(|fault| fault.help(HELP))?;
    let fault = || Fault::of(value, format!("`{text}` is no limit of a process")).help(HELP);
    let one = |text: &str| match text.trim() {
        "unlimited" => Ok(None),
        number => number.parse().map(Some).map_err(|_| fault()),
    };
    let (soft, hard) = text.split_once(':').unwrap_or((&text, &text));
    let (soft, hard) = (one(soft)?, one(hard)?);
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        return Err(Fault::of(value, "the soft limit is above the hard one").help(HELP));
    }
    Ok(SoftHard { soft, hard })
}

pub(super) fn hugepages(value: &Value<'_>) -> Result<BTreeMap<PageSize, Size>, Fault> {
    const HELP: &str =
        "as in `{ \"2M\" = \"64M\" }`: the size of the pages, and how much there may be of them";
    let table = value
        .get_ref()
        .as_table()
        .ok_or_else(|| Fault::of(value, "expected a table").help(HELP))?;
    table
        .iter()
        .map(|(name, value)| {
            let page = match name.get_ref().parse() {
                Ok(Size::Bytes(bytes)) => PageSize::new(bytes),
                Ok(Size::Share(_) | Size::Unlimited) | Err(_) => None,
            };
            let page = page.ok_or_else(|| {
                Fault::at(
                    name.span(),
                    format!("`{}` is no size of huge pages", name.get_ref()),
                )
                .help(HELP)
            })?;
            Ok((page, size(value)?))
        })
        .collect()
}

pub(super) fn oom_score(value: &Value<'_>) -> Result<OomScore, Fault> {
    match integer(value) {
        Some(score @ -1000..=1000) => Ok(OomScore(i16::try_from(score).unwrap_or_default())),
        _ => Err(Fault::of(
            value,
            "the score is a number from -1000 to 1000; 0 is usual",
        )),
    }
}

pub(super) fn shown_size(size: Size) -> toml_edit::Value {
    size.to_string().into()
}

pub(super) fn shown_count(limit: Limit) -> toml_edit::Value {
    match limit.at().and_then(|at| i64::try_from(at).ok()) {
        Some(at) => at.into(),
        None => limit.to_string().into(),
    }
}

pub(super) fn shown_cpu_limit(limit: Option<Percent>) -> toml_edit::Value {
    limit
        .map_or_else(|| Limit::Unlimited.to_string(), |percent| percent.to_string())
        .into()
}

pub(super) fn shown_io_limits(limits: &[IoLimit]) -> toml_edit::Value {
    let table = |limit: &IoLimit| {
        let mut table = InlineTable::new();
        table.insert("device", limit.device.to_string_lossy().into_owned().into());
        for (key, rate) in [
            ("read_bytes", limit.read_bytes),
            ("write_bytes", limit.write_bytes),
        ] {
            if rate != Size::Unlimited {
                table.insert(key, shown_size(rate));
            }
        }
        for (key, most) in [("read_ops", limit.read_ops), ("write_ops", limit.write_ops)] {
            if most != Limit::Unlimited {
                table.insert(key, shown_count(most));
            }
        }
        table
    };
    limits.iter().map(table).collect::<Array>().into()
}

pub(super) fn shown_rlimits(limits: &BTreeMap<Rlimit, SoftHard>) -> toml_edit::Value {
    let one = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let mut table = InlineTable::new();
    for (limit, SoftHard { soft, hard }) in limits {
        table.insert(limit.name(), format!("{}:{}", one(*soft), one(*hard)).into());
    }
    table.into()
}

pub(super) fn shown_hugepages(pages: &BTreeMap<PageSize, Size>) -> toml_edit::Value {
    let mut table = InlineTable::new();
    for (page, size) in pages {
        table.insert(page.to_string(), shown_size(*size));
    }
    table.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{Definition, KEYS};
    use crate::ids::Ids;
    use crate::layout::Layout;
    use std::fmt::Write;
    use std::path::Path;

    fn parse(text: &str) -> Result<Definition, String> {
        let name = "a".parse().unwrap();
        let text = format!("userns = false\n{text}\n");
        Definition::parse(&name, Path::new("a.toml"), text.as_bytes(), &Layout::default())
            .map_err(|faults| faults.to_string())
    }

    /// Every key with a value that is not the usual one, as a definition has it and as it is shown.
    const SAID: [(&str, &str, &str); 20] = [
        ("memory_guarantee", "\"48M\"", "\"48M\""),
        ("memory_soft_guarantee", "\"12288p\"", "\"48M\""),
        ("memory_barrier", "\"10%\"", "\"10%\""),
        ("memory_limit", "1073741824", "\"1G\""),
        ("swap_limit", "0", "\"0\""),
        ("processes", "200", "200"),
        ("cpu_weight", "50", "50"),
        ("cpu_limit", "150", "\"150%\""),
        ("cpus", "\"5,0-1,2\"", "\"0-2,5\""),
        ("numa_nodes", "0", "\"0\""),
        ("io_weight", "10000", "10000"),
        (
            "io_limits",
            "[{ device = \"/dev/sda\", write_bytes = \"10M\", read_ops = 100 }]",
            "[{ device = \"/dev/sda\", write_bytes = \"10M\", read_ops = 100 }]",
        ),
        ("ptys", "16", "16"),
        (
            "rlimits",
            "{ nofile = \"1024:unlimited\", core = 0 }",
            "{ core = \"0:0\", nofile = \"1024:unlimited\" }",
        ),
        ("shm", "\"unlimited\"", "\"unlimited\""),
        ("hugepages", "{ \"2M\" = \"64M\" }", "{ 2M = \"64M\" }"),
        ("tcp_receive_buffer", "\"1.5M\"", "\"1536K\""),
        ("tcp_send_buffer", "\"1M\"", "\"1M\""),
        ("inotify_instances", "512", "512"),
        ("oom_score_adj", "-5", "-5"),
    ];

    #[test]
    fn what_is_said_is_shown_and_reads_the_same() {
        let mut text = String::new();
        for (key, said, _) in SAID {
            writeln!(text, "{key} = {said}").unwrap();
        }
        let definition = parse(&text).unwrap();
        let usual = Definition::new("a".parse().unwrap(), Ids::Host, &Layout::default());
        for (key, _, shown) in SAID {
            let key = crate::definition::key(key).unwrap();
            assert_eq!((key.show)(&definition).to_string().trim(), shown, "{key:?}");
            let usual_value = (key.show)(&usual).to_string();
            assert_ne!(usual_value.trim(), shown, "{key:?}");
            // The usual value can be said as well.
            assert_eq!(
                parse(&format!("{key:?} = {usual_value}")).unwrap(),
                usual,
                "{key:?}"
            );
        }
        let written = definition.text(&Layout::default());
        let name = "a".parse().unwrap();
        let again = Definition::parse(&name, Path::new("a.toml"), written.as_bytes(), &Layout::default());
        assert_eq!(again, Ok(definition), "{written}");
        // Each limit is in the list above.
        let live: Vec<_> = KEYS
            .iter()
            .filter(|key| !key.identity)
            .map(|key| key.name)
            .collect();
        assert!(SAID.iter().all(|(name, _, _)| live.contains(name)));
    }

    #[test]
    fn what_is_no_limit() {
        for (text, part) in [
            ("memory_limit = \"12X\"", "a.toml:2:16: error: `12X` is no size"),
            ("memory_limit = true", "expected a string, found boolean"),
            ("memory_limit = 1.5", "expected a string, found float"),
            ("memory_limit = -1", "`-1` is no size"),
            ("processes = 0", "0 is not between 1 and 4194304"),
            ("processes = \"10M\"", "`10M` is no number of things"),
            ("ptys = 1048577", "not between 1 and 1048576"),
            ("inotify_instances = 0", "not between 1 and 2147483647"),
            ("cpu_weight = 0", "1 to 10000"),
            ("cpu_weight = \"50\"", "1 to 10000"),
            ("io_weight = 10001", "1 to 10000"),
            ("cpu_limit = \"0.5%\"", "0.5% is not between 1% and 100000%"),
            ("cpu_limit = \"fast\"", "no percentage"),
            ("cpus = \"3-1\"", "`3-1` is no list of numbers"),
            ("cpus = \"1,,2\"", "no list of numbers"),
            ("cpus = \"8192\"", "no list of numbers"),
            ("numa_nodes = \"0x1\"", "no list of numbers"),
            ("io_limits = [{ write_bytes = 1 }]", "`device` is missing"),
            ("io_limits = [{ device = \"sda\" }]", "absolute path"),
            (
                "io_limits = [{ device = \"/dev/a\", bytes = 1 }]",
                "unknown key `bytes`",
            ),
            (
                "io_limits = [{ device = \"/dev/a\", read_bytes = 0 }]",
                "from 1 byte",
            ),
            (
                "io_limits = [{ device = \"/dev/a\", read_bytes = \"1%\" }]",
                "no share",
            ),
            (
                "io_limits = [{ device = \"/dev/a\", read_ops = 0 }]",
                "not between 1",
            ),
            (
                "io_limits = [{ device = \"/dev/a\" }, { device = \"/dev/a\" }]",
                "limited twice",
            ),
            ("rlimits = { files = 1 }", "unknown key `files`"),
            ("rlimits = { nofile = \"2:1\" }", "soft limit is above"),
            ("rlimits = { nofile = \"1:2:3\" }", "no limit of a process"),
            ("rlimits = { nofile = -1 }", "no limit of a process"),
            ("hugepages = { \"3M\" = 1 }", "`3M` is no size of huge pages"),
            ("hugepages = { \"4K\" = 1 }", "no size of huge pages"),
            ("hugepages = 1", "expected a table"),
            ("oom_score_adj = 1001", "-1000 to 1000"),
            ("tcp_send_buffer = \"big\"", "no size"),
        ] {
            let shown = parse(text).unwrap_err();
            assert!(shown.contains(part), "{text}: {shown}");
        }
    }

    #[test]
    fn names_of_page_sizes() {
        for (bytes, name) in [
            (16_u64 << 10, "16K"),
            (2 << 20, "2M"),
            (1 << 30, "1G"),
            (16 << 30, "16G"),
        ] {
            assert_eq!(PageSize::new(bytes).unwrap().to_string(), name);
        }
    }
}

//! A container's definition: the TOML file a person writes, as types that cannot be wrong.
//!
//! Pure: text in, definition or all its faults out. Reading and writing files is `definitions`'.

use crate::ids::{COUNT, IdBlock, Ids};
use crate::layout::Layout;
use crate::signal::StopSignal;
use devbroker::config::{Diagnostic, Source};
use devbroker::model::ContainerName;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The largest definition that is read.
pub(crate) const MAX_FILE: usize = 64 << 10;
/// How long a container may take to shut down, unless its definition says otherwise.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);
/// The longest time a definition may ask for.
const MAX_STOP_TIMEOUT: u32 = 3600;
/// The longest host name (`HOST_NAME_MAX`, `gethostname(2)`).
const MAX_HOSTNAME: usize = 64;

/// What a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Definition {
    /// Its name.
    pub(crate) name: ContainerName,
    /// Its root file system on the host.
    pub(crate) rootfs: PathBuf,
    /// Its first process: program and arguments.
    pub(crate) init: Vec<String>,
    /// Its host name.
    pub(crate) hostname: String,
    /// Its ids on the host.
    pub(crate) ids: Ids,
    /// What asks its init to shut down.
    pub(crate) stop_signal: StopSignal,
    /// How long that may take.
    pub(crate) stop_timeout: Duration,
    /// Whether programs in it can gain no privilege by set-user-id bits and file capabilities.
    pub(crate) no_new_privs: bool,
}

/// What is wrong with a definition. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub(crate) struct Faults(pub(crate) Vec<Diagnostic>);

impl Definition {
    /// A definition with what is usual for everything that must not be said.
    pub(crate) fn new(name: ContainerName, ids: Ids, layout: &Layout) -> Self {
        Self {
            rootfs: layout.rootfs(&name),
            init: vec!["/sbin/init".into()],
            hostname: hostname(&name),
            ids,
            stop_signal: StopSignal::TERM,
            stop_timeout: STOP_TIMEOUT,
            no_new_privs: true,
            name,
        }
    }

    /// Parses the bytes of `path`, the definition of `name`.
    pub(crate) fn parse(
        name: &ContainerName,
        path: &Path,
        bytes: &[u8],
        layout: &Layout,
    ) -> Result<Self, Faults> {
        let whole = |message: &str| Faults(vec![Diagnostic::of_file(path, message)]);
        if bytes.len() > MAX_FILE {
            return Err(whole(
                "the file is larger than 64 KiB; a definition is a few lines",
            ));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| {
            whole(&format!(
                "byte {} is not UTF-8; save the file as UTF-8",
                e.valid_up_to()
            ))
        })?;
        let source = Source::new(path, text);
        let table = DeTable::parse(text).map_err(|e| {
            Faults(vec![
                source.error(&e.span().unwrap_or(0..0), e.message().to_lowercase()),
            ])
        })?;
        let mut reader = Reader {
            source: &source,
            faults: Vec::new(),
        };
        let mut definition = Self::new(name.clone(), Ids::Host, layout);
        let mut ids = None;
        for (key, value) in table.get_ref() {
            match key.get_ref().as_ref() {
                "rootfs" => reader.set(value, &mut definition.rootfs, rootfs),
                "init" => reader.set(value, &mut definition.init, init),
                "hostname" => reader.set(value, &mut definition.hostname, hostname_value),
                "userns" => {
                    // A block that is not valid was reported; it must not be reported as missing as well.
                    let mut found = Ids::Host;
                    reader.set(value, &mut found, userns);
                    ids = Some(found);
                }
                "stop_signal" => reader.set(value, &mut definition.stop_signal, |value| {
                    string(value)?.parse().map_err(|e| Fault::of(value, format!("{e}")))
                }),
                "stop_timeout" => reader.set(value, &mut definition.stop_timeout, stop_timeout),
                "no_new_privs" => reader.set(value, &mut definition.no_new_privs, boolean),
                unknown => reader.faults.push(
                    source
                        .error(&key.span(), format!("unknown key `{unknown}`"))
                        .help(
                            "known are rootfs, init, hostname, userns, stop_signal, stop_timeout and no_new_privs",
                        ),
                ),
            }
        }
        match ids {
            Some(ids) => definition.ids = ids,
            None => reader.faults.push(Diagnostic::of_file(path, "`userns` is missing").help(
                "write `userns = { first = FIRST, count = 65536 }` with host ids of the container's own, or `userns = false`",
            )),
        }
        if reader.faults.is_empty() {
            Ok(definition)
        } else {
            reader
                .faults
                .sort_by_key(|fault| (fault.origin.line, fault.column));
            Err(Faults(reader.faults))
        }
    }

    /// The text of a new definition's file, for a person to go on with.
    pub(crate) fn text(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.into()).to_string();
        let userns = match self.ids {
            Ids::Host => "false".into(),
            Ids::Block(IdBlock { first, count }) => format!("{{ first = {first}, count = {count} }}"),
        };
        let init = self
            .init
            .iter()
            .map(|arg| quoted(arg))
            .collect::<Vec<_>>()
            .join(", ");
        let rootfs = quoted(&self.rootfs.to_string_lossy());
        format!(
            "# Container {name}. Takes effect at its next start; see ctm(8).\n\
             rootfs = {rootfs}\n\
             init = [{init}]\n\
             hostname = {hostname}\n\
             # Host ids of the container's user namespace, which own its files; false: none.\n\
             userns = {userns}\n\
             # What asks its init to shut down, and the seconds this may take.\n\
             stop_signal = \"{signal}\"\n\
             stop_timeout = {timeout}\n\
             # Whether set-user-id programs such as sudo are without effect.\n\
             no_new_privs = {nnp}\n",
            name = self.name,
            hostname = quoted(&self.hostname),
            signal = self.stop_signal,
            timeout = self.stop_timeout.as_secs(),
            nnp = self.no_new_privs,
        )
    }
}

/// A container's name as a host name: `_` is not for host names.
fn hostname(name: &ContainerName) -> String {
    name.as_str().replace('_', "-")
}

/// A value that does not fit.
struct Fault {
    span: Range<usize>,
    message: String,
    help: Option<&'static str>,
}

impl Fault {
    fn of(value: &Spanned<DeValue<'_>>, message: impl Into<String>) -> Self {
        Self {
            span: value.span(),
            message: message.into(),
            help: None,
        }
    }

    fn help(mut self, help: &'static str) -> Self {
        self.help = Some(help);
        self
    }

    fn kind(value: &Spanned<DeValue<'_>>, wanted: &'static str) -> Self {
        Self::of(
            value,
            format!("expected {wanted}, found {}", value.get_ref().type_str()),
        )
    }
}

/// Collects faults while values are read.
struct Reader<'a, 't> {
    source: &'a Source<'t>,
    faults: Vec<Diagnostic>,
}

impl Reader<'_, '_> {
    fn set<T>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        place: &mut T,
        read: impl FnOnce(&Spanned<DeValue<'_>>) -> Result<T, Fault>,
    ) {
        match read(value) {
            Ok(read) => *place = read,
            Err(fault) => {
                let diagnostic = self.source.error(&fault.span, fault.message);
                self.faults.push(match fault.help {
                    Some(help) => diagnostic.help(help),
                    None => diagnostic,
                });
            }
        }
    }
}

fn string<'v>(value: &'v Spanned<DeValue<'_>>) -> Result<&'v str, Fault> {
    let text = value
        .get_ref()
        .as_str()
        .ok_or_else(|| Fault::kind(value, "a string"))?;
    if text.contains('\0') {
        return Err(Fault::of(value, "a NUL character cannot be passed on"));
    }
    Ok(text)
}

fn boolean(value: &Spanned<DeValue<'_>>) -> Result<bool, Fault> {
    value
        .get_ref()
        .as_bool()
        .ok_or_else(|| Fault::kind(value, "true or false"))
}

fn number(value: &Spanned<DeValue<'_>>) -> Result<u32, Fault> {
    let integer = value
        .get_ref()
        .as_integer()
        .ok_or_else(|| Fault::kind(value, "a whole number"))?;
    u32::from_str_radix(integer.as_str(), integer.radix())
        .map_err(|_| Fault::of(value, "expected a number from 0 to 4294967295"))
}

fn rootfs(value: &Spanned<DeValue<'_>>) -> Result<PathBuf, Fault> {
    let path = Path::new(string(value)?);
    let plain = path
        .components()
        .skip(1)
        .all(|part| matches!(part, Component::Normal(_)));
    if path.is_absolute() && plain && path != Path::new("/") {
        Ok(path.into())
    } else {
        Err(Fault::of(
            value,
            "the root file system is an absolute path without `..`, and not /",
        )
        .help("as in `rootfs = \"/var/lib/ctm/NAME/rootfs\"`"))
    }
}

fn init(value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Fault> {
    const HELP: &str = "as in `init = [\"/sbin/init\"]`";
    let list = value
        .get_ref()
        .as_array()
        .ok_or_else(|| Fault::kind(value, "a list of strings").help(HELP))?;
    let words = list
        .iter()
        .map(|word| string(word).map(Into::into))
        .collect::<Result<Vec<String>, _>>()?;
    match words.first().map(String::as_str) {
        None | Some("") => Err(Fault::of(value, "the program to run is missing").help(HELP)),
        Some(_) => Ok(words),
    }
}

fn hostname_value(value: &Spanned<DeValue<'_>>) -> Result<String, Fault> {
    let text = string(value)?;
    let fits = (1..=MAX_HOSTNAME).contains(&text.len())
        && text
            .split('.')
            .all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'))
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    if fits {
        Ok(text.into())
    } else {
        Err(Fault::of(value, format!("`{text}` is no host name"))
            .help("use 1 to 64 letters, digits, `-` and `.`"))
    }
}

fn userns(value: &Spanned<DeValue<'_>>) -> Result<Ids, Fault> {
    const HELP: &str = "write `userns = false` or `userns = { first = FIRST, count = 65536 }`";
    if let Some(wanted) = value.get_ref().as_bool() {
        return if wanted {
            Err(Fault::of(value, "which host ids the container has must be said").help(HELP))
        } else {
            Ok(Ids::Host)
        };
    }
    let table = value
        .get_ref()
        .as_table()
        .ok_or_else(|| Fault::kind(value, "false or a table").help(HELP))?;
    for (key, _) in table {
        if !matches!(key.get_ref().as_ref(), "first" | "count") {
            return Err(Fault {
                span: key.span(),
                message: format!("unknown key `{}`", key.get_ref()),
                help: Some(HELP),
            });
        }
    }
    let of = |key: &str| {
        table
            .get(key)
            .ok_or_else(|| Fault::of(value, format!("`{key}` is missing")).help(HELP))
    };
    let (first_value, count_value) = (of("first")?, of("count")?);
    let block = IdBlock {
        first: number(first_value)?,
        count: number(count_value)?,
    };
    if block.count == 0 || block.count > COUNT {
        return Err(Fault::of(count_value, "a container has 1 to 65536 ids"));
    }
    if block.first < COUNT {
        return Err(Fault::of(
            first_value,
            "ids below 65536 belong to the host's own users; begin higher",
        ));
    }
    if block.first.checked_add(block.count).is_none() {
        return Err(Fault::of(first_value, "ids above 4294967294 do not exist"));
    }
    Ok(Ids::Block(block))
}

fn stop_timeout(value: &Spanned<DeValue<'_>>) -> Result<Duration, Fault> {
    match number(value)? {
        seconds @ 1..=MAX_STOP_TIMEOUT => Ok(Duration::from_secs(seconds.into())),
        _ => Err(Fault::of(value, "the time to stop is 1 to 3600 seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Definition, String> {
        Definition::parse(
            &"scan_1".parse().unwrap(),
            Path::new("scan_1.toml"),
            text.as_bytes(),
            &Layout::default(),
        )
        .map_err(|faults| faults.to_string())
    }

    #[test]
    fn what_need_not_be_said() {
        assert_eq!(
            parse("userns = false\n"),
            Ok(Definition {
                name: "scan_1".parse().unwrap(),
                rootfs: "/var/lib/ctm/scan_1/rootfs".into(),
                init: vec!["/sbin/init".into()],
                hostname: "scan-1".into(),
                ids: Ids::Host,
                stop_signal: StopSignal::TERM,
                stop_timeout: Duration::from_secs(90),
                no_new_privs: true,
            })
        );
    }

    #[test]
    fn text_and_back() {
        let mut definition = Definition::new(
            "scan_1".parse().unwrap(),
            Ids::Block(IdBlock {
                first: 1_000_000,
                count: COUNT,
            }),
            &Layout::default(),
        );
        definition.init = vec!["/bin/sh".into(), "-c".into(), "echo \"a\\b\"\n\t'é'".into()];
        definition.stop_signal = StopSignal::SYSTEMD;
        definition.no_new_privs = false;
        assert_eq!(parse(&definition.text()), Ok(definition));
    }

    #[test]
    fn every_fault_with_its_place() {
        let text = "rootfs = \"var/../etc\"\ninit = []\nhostname = \"-x\"\nusernst = false\n\
                    stop_signal = \"TERM\"\nstop_timeout = 0\nno_new_privs = 1\nuserns = { first = 0, count = 1 }\n";
        assert_eq!(
            parse(text).unwrap_err(),
            "scan_1.toml:1:10: error: the root file system is an absolute path without `..`, and not /\n   |\n \
             1 | rootfs = \"var/../etc\"\n   |          ^^^^^^^^^^^^\n   = as in `rootfs = \"/var/lib/ctm/NAME/rootfs\"`\n\
             scan_1.toml:2:8: error: the program to run is missing\n   |\n 2 | init = []\n   |        ^^\n   \
             = as in `init = [\"/sbin/init\"]`\n\
             scan_1.toml:3:12: error: `-x` is no host name\n   |\n 3 | hostname = \"-x\"\n   |            ^^^^\n   \
             = use 1 to 64 letters, digits, `-` and `.`\n\
             scan_1.toml:4:1: error: unknown key `usernst`\n   |\n 4 | usernst = false\n   | ^^^^^^^\n   \
             = known are rootfs, init, hostname, userns, stop_signal, stop_timeout and no_new_privs\n\
             scan_1.toml:5:15: error: `TERM` is no signal; write SIGTERM, SIGINT, SIGPWR, SIGRTMIN+3 and the like\n   |\n \
             5 | stop_signal = \"TERM\"\n   |               ^^^^^^\n\
             scan_1.toml:6:16: error: the time to stop is 1 to 3600 seconds\n   |\n 6 | stop_timeout = 0\n   |                ^\n\
             scan_1.toml:7:16: error: expected true or false, found integer\n   |\n 7 | no_new_privs = 1\n   |                ^\n\
             scan_1.toml:8:20: error: ids below 65536 belong to the host's own users; begin higher\n   |\n \
             8 | userns = { first = 0, count = 1 }\n   |                    ^"
        );
    }

    #[test]
    fn what_is_no_definition() {
        for (text, part) in [
            ("", "`userns` is missing"),
            ("userns = true", "which host ids the container has must be said"),
            ("userns = { first = 100000 }", "`count` is missing"),
            ("userns = { first = 4294967295, count = 2 }", "do not exist"),
            ("userns = { first = 100000, count = 65537 }", "1 to 65536 ids"),
            ("userns = false\nuserns = false", "duplicate key"),
            ("userns = ", "scan_1.toml:1:"),
            ("userns = false\ninit = [\"a\\u0000\"]", "NUL"),
            ("userns = false\nrootfs = \"/\"", "not /"),
        ] {
            let shown = parse(text).unwrap_err();
            assert!(shown.contains(part), "{text}: {shown}");
        }
        assert!(
            Definition::parse(
                &"x".parse().unwrap(),
                Path::new("x.toml"),
                b"userns = false # \xff",
                &Layout::default()
            )
            .is_err()
        );
        assert!(parse(&" ".repeat(MAX_FILE + 1)).is_err());
    }
}

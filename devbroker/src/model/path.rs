//! Paths below `/dev` and below `/sys`.

use super::name::serde_as_str;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A text that cannot be a path of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: {rule}")]
pub struct PathError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// A path below `/dev`, without `/dev/` in front: `ttyUSB0`, `bus/usb/001/004`. Holds no empty, `.` or `..`
/// component, no control character and at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePath(String);

impl NodePath {
    /// The relative path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The relative path, for system calls.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The folders above it, outermost first: `bus`, `bus/usb`, `bus/usb/001`.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').filter_map(|(at, _)| self.0.get(..at))
    }

    /// The folder it lies in (empty: directly below `/dev`) and its name there.
    pub fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }

    /// The text of a symbolic link at this path that leads to `target`, relative: from `scan/epson` to
    /// `bus/usb/001/004` it is `../bus/usb/001/004`.
    pub fn link_to(&self, target: &Self) -> String {
        let up = self.0.matches('/').count();
        // The folders that both lie below, as the lengths of their names with the slash.
        let common = self
            .0
            .split('/')
            .take(up)
            .zip(
                target
                    .parents()
                    .map(|parent| parent.rsplit('/').next().unwrap_or(parent)),
            )
            .take_while(|(a, b)| a == b)
            .map(|(a, _)| a.len() + 1)
            .collect::<Vec<_>>();
        let rest = target.0.get(common.iter().sum::<usize>()..).unwrap_or(&target.0);
        format!("{}{rest}", "../".repeat(up - common.len()))
    }
}

impl FromStr for NodePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "write it relative to /dev, as in `ttyUSB0` or `scan/epson`: no `..`, `.` or empty part, no control character, at most 255 bytes, not below .devbroker";
        let relative = text.strip_prefix("/dev/").unwrap_or(text);
        let fits = relative.len() <= 255
            && relative.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !relative.chars().any(char::is_control)
            && relative.split('/').next() != Some(".devbroker");
        if fits {
            Ok(Self(relative.into()))
        } else {
            Err(PathError {
                what: "path below /dev",
                text: text.chars().take(80).collect(),
                rule: RULE,
            })
        }
    }
}

impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_str!(NodePath);

/// A device's path in sysfs, without `/sys` in front: `/devices/pci0000:00/0000:00:14.0/usb1/1-2` (udev's DEVPATH).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysPath(String);

impl SysPath {
    /// The path, beginning with `/devices/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its last component, the kernel's name for the device.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// Whether this is `ancestor` or lies below it (whole components: `1-1` is not above `1-10`).
    pub fn is_within(&self, ancestor: &Self) -> bool {
        self.0
            .strip_prefix(&ancestor.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The device above, if there is one.
    pub fn parent(&self) -> Option<Self> {
        let (above, _) = self.0.rsplit_once('/')?;
        (above.len() > "/devices".len()).then(|| Self(above.into()))
    }
}

impl FromStr for SysPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("/sys").unwrap_or(text);
        let fits = path.len() <= 4000
            && path.strip_prefix("/devices/").is_some_and(|rest| {
                rest.split('/').all(|part| !matches!(part, "" | "." | "..")) && !rest.contains('\0')
            });
        if fits {
            Ok(Self(path.into()))
        } else {
            Err(PathError {
                what: "device path",
                text: text.chars().take(80).collect(),
                rule: "it begins with /devices/ and has no `..`",
            })
        }
    }
}

impl fmt::Display for SysPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_str!(SysPath);

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> NodePath {
        text.parse().unwrap()
    }

    #[test]
    fn node_paths_stay_below_dev() {
        assert_eq!(node("/dev/ttyUSB0").as_str(), "ttyUSB0");
        assert_eq!(
            node("bus/usb/001/004").parents().collect::<Vec<_>>(),
            ["bus", "bus/usb", "bus/usb/001"]
        );
        assert_eq!(node("bus/usb").split(), ("bus", "usb"));
        assert_eq!(node("lp0").split(), ("", "lp0"));
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\nb",
            ".devbroker/x",
        ] {
            assert!(bad.parse::<NodePath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn links_are_relative() {
        for (from, to, text) in [
            ("scanner", "bus/usb/001/004", "bus/usb/001/004"),
            ("scan/epson", "bus/usb/001/004", "../bus/usb/001/004"),
            ("bus/usb/mine", "bus/usb/001/004", "001/004"),
            ("bus/x/mine", "bus/usb/001/004", "../usb/001/004"),
            ("lp", "usb/lp0", "usb/lp0"),
            ("usb/lp", "usb/lp0", "lp0"),
            ("usb/lp0/x", "usb/lp0", "../lp0"),
        ] {
            assert_eq!(node(from).link_to(&node(to)), text, "{from} -> {to}");
        }
    }

    #[test]
    fn prefixes_end_at_components() {
        let sys = |text: &str| text.parse::<SysPath>().unwrap();
        assert!(sys("/devices/usb1/1-1/1-1:1.0").is_within(&sys("/sys/devices/usb1/1-1")));
        assert!(!sys("/devices/usb1/1-10").is_within(&sys("/devices/usb1/1-1")));
        assert_eq!(sys("/devices/a/b").parent(), Some(sys("/devices/a")));
        assert_eq!(sys("/devices/a").parent(), None);
        assert!("/devices/a/../b".parse::<SysPath>().is_err());
        assert!("/class/tty".parse::<SysPath>().is_err());
    }
}

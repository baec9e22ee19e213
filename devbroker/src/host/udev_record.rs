//! udev's record of a device, `/run/udev/data/c188:0`: links, properties, tags, and since when udev is done with it.
//!
//! Pure. The form is udev's own (`src/libsystemd/sd-device/device-private.c`, `device_update_db`): one line each, a letter,
//! a colon and a value. Whether a record belongs to the device that now has the number is the reader's question.

use super::event::Properties;

/// The longest record that is read.
pub const MAX_RECORD: usize = 256 * 1024;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// When udev first was done with the device, in microseconds of the monotonic clock (`I:`).
    pub initialized: Option<u64>,
    /// The properties (`E:`), with those that udev makes of the other lines: `DEVLINKS`, `TAGS`, `CURRENT_TAGS`,
    /// `USEC_INITIALIZED`.
    pub properties: Properties,
}

/// Reads a record. Lines that are not understood are left out: newer versions of udev may have more.
pub fn parse(bytes: &[u8]) -> Record {
    let mut record = Record::default();
    let (mut links, mut tags, mut current) = (String::new(), String::new(), String::new());
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((kind, value)) = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        match kind {
            "S" => {
                if !links.is_empty() {
                    links.push(' ');
                }
                links.push_str("/dev/");
                links.push_str(value);
            }
            "G" => push_tag(&mut tags, value),
            "Q" => push_tag(&mut current, value),
            "I" => record.initialized = value.parse().ok(),
            "E" => {
                if let Some((key, value)) = value.split_once('=') {
                    record.properties.insert(key.into(), value.into());
                }
            }
            _ => {}
        }
    }
    let mut set = |key: &str, value: String| {
        if !value.is_empty() {
            record.properties.insert(key.into(), value);
        }
    };
    set("DEVLINKS", links);
    set("TAGS", tags);
    set("CURRENT_TAGS", current);
    if let Some(usec) = record.initialized {
        set("USEC_INITIALIZED", usec.to_string());
    }
    record
}

/// Tags stand between colons, with one at either end.
fn push_tag(tags: &mut String, tag: &str) {
    if tags.is_empty() {
        tags.push(':');
    }
    tags.push_str(tag);
    tags.push(':');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record() {
        let text = b"S:serial/by-id/usb-x-if00-port0\nS:serial/by-path/y\nI:4711\nE:ID_MODEL=x y=z\nE:DEVBROKER_ALIAS=a,b\nG:systemd\nG:uaccess\nQ:systemd\nV:1\nbad line\nE:none\nX:new\n\xff\xfe\n";
        let record = parse(text);
        assert_eq!(record.initialized, Some(4711));
        let all: Vec<(&str, &str)> = record
            .properties
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            all,
            [
                ("CURRENT_TAGS", ":systemd:"),
                ("DEVBROKER_ALIAS", "a,b"),
                (
                    "DEVLINKS",
                    "/dev/serial/by-id/usb-x-if00-port0 /dev/serial/by-path/y"
                ),
                ("ID_MODEL", "x y=z"),
                ("TAGS", ":systemd:uaccess:"),
                ("USEC_INITIALIZED", "4711"),
            ]
        );
        assert_eq!(parse(b""), Record::default());
        assert_eq!(parse(b"I:x\n").initialized, None);
    }
}

//! What the host tells about its devices: events with closed types, made from the properties of a kernel, udev or hook
//! message.
//!
//! Pure: owns the parsing of properties and of the kernel's message, does no I/O. Devices without a node concern nobody
//! here and vanish at this edge.

use crate::model::{DevKind, DevNum, SysPath};
use std::collections::BTreeMap;

/// The properties of a device, by name, as udev has them.
pub type Properties = BTreeMap<String, String>;

/// The longest message that is looked at. The kernel's own buffer is 2 KiB, udev's messages reach some more.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Who told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The kernel, before udev has run its rules.
    Kernel,
    /// udev, after its rules.
    Udev,
    /// The hook that udev runs at the end of its rules.
    Hook,
}

/// What happened to a device that is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It came.
    Add,
    /// Something about it changed.
    Change,
    /// A driver took it.
    Bind,
    /// A driver left it.
    Unbind,
    /// It went online.
    Online,
    /// It went offline.
    Offline,
    /// Something that a newer kernel knows.
    Other,
}

impl Action {
    /// The word that udev has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Change => "change",
            Self::Bind => "bind",
            Self::Unbind => "unbind",
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Other => "other",
        }
    }
}

/// A device with a node came or changed, and udev (or the hook) has its properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Where it is.
    pub syspath: SysPath,
    /// The number of the kernel's event: rises with each event of the machine.
    pub seqnum: u64,
    /// What happened.
    pub action: Action,
    /// The node's number.
    pub devnum: DevNum,
    /// All properties of the message, `ACTION` and `SEQNUM` included.
    pub properties: Properties,
    /// Who told it.
    pub from: Source,
}

/// A device with a node went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Where it was.
    pub syspath: SysPath,
    /// The number of the kernel's event.
    pub seqnum: u64,
    /// The number that its node had.
    pub devnum: DevNum,
    /// Who told it.
    pub from: Source,
}

/// One message about the host's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// A device with a node came or changed.
    Changed(Changed),
    /// A device with a node went.
    Removed(Removed),
    /// Messages were lost, or one tells of a move that only a look at everything can follow: scan again.
    Lost,
}

/// A message that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A property that every message has is not there.
    #[error("device message without {0}; it was ignored")]
    Missing(&'static str),
    /// A property has no sense.
    #[error("device message with {key}=`{value}`; it was ignored")]
    Bad {
        /// Which one.
        key: &'static str,
        /// Its value, shortened.
        value: String,
    },
    /// It does not look like a message of the kernel at all.
    #[error("device message without the form of a kernel event; it was ignored")]
    Form,
}

/// Makes an event of a message's properties; `None` for a device without a node.
pub fn from_properties(properties: Properties, from: Source) -> Result<Option<HostEvent>, MessageError> {
    let get = |key| properties.get(key).map(String::as_str);
    let need = |key| get(key).ok_or(MessageError::Missing(key));
    let action = need("ACTION")?;
    if get("DEVNAME").is_none() {
        return Ok(None);
    }
    let Some(devnum) = devnum(&properties)? else {
        return Ok(None);
    };
    let devpath = need("DEVPATH")?;
    let syspath = devpath.parse::<SysPath>().map_err(|_| bad("DEVPATH", devpath))?;
    let seqnum = need("SEQNUM")?;
    let seqnum = seqnum.parse().map_err(|_| bad("SEQNUM", seqnum))?;
    let action = match action {
        "remove" => {
            return Ok(Some(HostEvent::Removed(Removed {
                syspath,
                seqnum,
                devnum,
                from,
            })));
        }
        // A node's device has another path from now on, and whatever lies below it as well.
        "move" => return Ok(Some(HostEvent::Lost)),
        "add" => Action::Add,
        "change" => Action::Change,
        "bind" => Action::Bind,
        "unbind" => Action::Unbind,
        "online" => Action::Online,
        "offline" => Action::Offline,
        _ => Action::Other,
    };
    Ok(Some(HostEvent::Changed(Changed {
        syspath,
        seqnum,
        action,
        devnum,
        properties,
        from,
    })))
}

/// The device number in a set of properties (`MAJOR`, `MINOR`, and `SUBSYSTEM` for the kind), if there is one.
pub fn devnum(properties: &Properties) -> Result<Option<DevNum>, MessageError> {
    let (Some(major), Some(minor)) = (properties.get("MAJOR"), properties.get("MINOR")) else {
        return Ok(None);
    };
    let letter = match properties.get("SUBSYSTEM").map(String::as_str) {
        Some("block") => DevKind::Block.letter(),
        Some(_) | None => DevKind::Char.letter(),
    };
    let number = format!("{letter}{major}:{minor}");
    number.parse().map(Some).map_err(|_| bad("MAJOR:MINOR", &number))
}

fn bad(key: &'static str, value: &str) -> MessageError {
    MessageError::Bad {
        key,
        value: value.chars().take(80).collect(),
    }
}

/// Splits a block of `KEY=value` texts, each ended by NUL. What is not of that form is left out; of a key that comes twice
/// the last counts, as with udev.
pub fn properties(block: &[u8]) -> Properties {
    block
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            let entry = std::str::from_utf8(entry).ok()?;
            let (key, value) = entry.split_once('=')?;
            (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The properties of a message of the kernel's group: `action@devpath` and then `KEY=value`, each ended by NUL
/// (`lib/kobject_uevent.c`).
pub fn kernel_message(message: &[u8]) -> Result<Properties, MessageError> {
    let end = message
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(MessageError::Form)?;
    let (header, rest) = message.split_at(end);
    let header = std::str::from_utf8(header).map_err(|_| MessageError::Form)?;
    let (action, devpath) = header.split_once('@').ok_or(MessageError::Form)?;
    let properties = properties(rest);
    let agrees = |key, value: &str| properties.get(key).is_some_and(|found| found == value);
    if agrees("ACTION", action) && agrees("DEVPATH", devpath) {
        Ok(properties)
    } else {
        Err(MessageError::Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REMOVE: &[u8] = b"remove@/devices/virtual/block/loop9\0ACTION=remove\0DEVPATH=/devices/virtual/block/loop9\0SUBSYSTEM=block\0MAJOR=7\0MINOR=9\0DEVNAME=loop9\0DEVTYPE=disk\0SEQNUM=4711\0";

    fn props(text: &str) -> Properties {
        properties(text.replace(' ', "\0").as_bytes())
    }

    #[test]
    fn a_kernel_remove() {
        let event = from_properties(kernel_message(REMOVE).unwrap(), Source::Kernel).unwrap();
        assert_eq!(
            event,
            Some(HostEvent::Removed(Removed {
                syspath: "/devices/virtual/block/loop9".parse().unwrap(),
                seqnum: 4711,
                devnum: DevNum::block(7, 9),
                from: Source::Kernel,
            }))
        );
    }

    #[test]
    fn minor_zero_counts_and_the_kind_is_the_subsystems() {
        let all = props(
            "ACTION=add DEVPATH=/devices/x/ttyUSB0 SUBSYSTEM=tty MAJOR=188 MINOR=0 DEVNAME=/dev/ttyUSB0 SEQNUM=7 A=b=c",
        );
        let Some(HostEvent::Changed(changed)) = from_properties(all.clone(), Source::Udev).unwrap() else {
            panic!("no change");
        };
        assert_eq!(changed.devnum, DevNum::char(188, 0));
        assert_eq!(changed.action, Action::Add);
        assert_eq!(changed.properties, all);
        assert_eq!(changed.properties.get("A").map(String::as_str), Some("b=c"));
    }

    #[test]
    fn what_has_no_node_concerns_nobody() {
        for text in [
            "ACTION=bind DEVPATH=/devices/usb1/1-1/1-1:1.0 SUBSYSTEM=usb SEQNUM=1",
            "ACTION=add DEVPATH=/devices/x MAJOR=1 MINOR=2 SEQNUM=1",
            "ACTION=add DEVPATH=/devices/x DEVNAME=x SEQNUM=1",
            "ACTION=add",
        ] {
            assert_eq!(from_properties(props(text), Source::Udev), Ok(None), "{text}");
        }
    }

    #[test]
    fn a_node_that_moves_asks_for_a_scan() {
        let text = "ACTION=move DEVPATH=/devices/b DEVPATH_OLD=/devices/a MAJOR=1 MINOR=2 DEVNAME=x SEQNUM=1";
        assert_eq!(
            from_properties(props(text), Source::Udev),
            Ok(Some(HostEvent::Lost))
        );
    }

    #[test]
    fn bad_messages_are_named() {
        for (text, error) in [
            ("DEVPATH=/devices/x", MessageError::Missing("ACTION")),
            (
                "ACTION=add DEVNAME=x MAJOR=1 MINOR=2 SEQNUM=1",
                MessageError::Missing("DEVPATH"),
            ),
            (
                "ACTION=add DEVNAME=x MAJOR=1 MINOR=2 DEVPATH=/devices/x",
                MessageError::Missing("SEQNUM"),
            ),
            (
                "ACTION=add DEVNAME=x MAJOR=1 MINOR=2 SEQNUM=1 DEVPATH=/devices/../x",
                bad("DEVPATH", "/devices/../x"),
            ),
            (
                "ACTION=add DEVNAME=x MAJOR=1 MINOR=-2 SEQNUM=1 DEVPATH=/devices/x",
                bad("MAJOR:MINOR", "c1:-2"),
            ),
            (
                "ACTION=add DEVNAME=x MAJOR=1 MINOR=2 SEQNUM=x DEVPATH=/devices/x",
                bad("SEQNUM", "x"),
            ),
        ] {
            assert_eq!(from_properties(props(text), Source::Hook), Err(error), "{text}");
        }
        let other_path = String::from_utf8_lossy(REMOVE).replace("DEVPATH=/devices", "DEVPATH=/devises");
        for message in [
            b"libudev\0".as_slice(),
            b"",
            b"remove@/devices/x",
            other_path.as_bytes(),
        ] {
            assert_eq!(kernel_message(message), Err(MessageError::Form));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            if let Ok(properties) = kernel_message(&bytes) {
                // Whatever it is, it is an answer.
                drop(from_properties(properties, Source::Kernel));
            }
        }

        #[test]
        fn a_cut_message_is_no_remove_of_another_device(cut in 0..REMOVE.len()) {
            let whole = from_properties(kernel_message(REMOVE).unwrap(), Source::Kernel).unwrap();
            let got = REMOVE.get(..cut).and_then(|part| kernel_message(part).ok())
                .and_then(|all| from_properties(all, Source::Kernel).ok().flatten());
            // The last property is SEQNUM: a cut one could be another number, but never another device.
            if let (Some(HostEvent::Removed(got)), Some(HostEvent::Removed(whole))) = (got, whole) {
                prop_assert_eq!(got.syspath, whole.syspath);
                prop_assert_eq!(got.devnum, whole.devnum);
            }
        }
    }
}

//! A node's properties, the same whether an event or udev's record tells them.

use crate::host::event::Properties;
use crate::model::{NodePath, SysPath};

/// How many of udev's links of one node are kept.
const MAX_LINKS: usize = 256;

/// udev's links, as paths below `/dev`.
pub(super) fn links(properties: &Properties) -> Vec<NodePath> {
    let text = properties.get("DEVLINKS").map(String::as_str).unwrap_or_default();
    let mut links: Vec<NodePath> = text
        .split_ascii_whitespace()
        .take(MAX_LINKS)
        .filter_map(|link| link.parse().ok())
        .collect();
    links.sort();
    links
}

/// What the record and sysfs together say, with the names that events use.
pub(super) fn with_sysfs(
    record: Properties,
    uevent: Properties,
    syspath: &SysPath,
    subsystem: Option<&str>,
    devname: &NodePath,
) -> Properties {
    let mut all = record;
    all.extend(uevent);
    all.insert("DEVPATH".into(), syspath.to_string());
    all.insert("DEVNAME".into(), format!("/dev/{devname}"));
    if let Some(subsystem) = subsystem {
        all.insert("SUBSYSTEM".into(), subsystem.into());
    }
    all
}

/// Leaves out what belongs to the event and not to the device, and gives what has no order one: udev's differs from process
/// to process.
pub(super) fn of_device(mut properties: Properties) -> Properties {
    for key in ["ACTION", "SEQNUM", "SYNTH_UUID", "UDEV_DATABASE_VERSION"] {
        properties.remove(key);
    }
    if let Some(links) = properties.get_mut("DEVLINKS") {
        *links = sorted(links.split_ascii_whitespace()).join(" ");
    }
    for key in ["TAGS", "CURRENT_TAGS"] {
        if let Some(tags) = properties.get_mut(key) {
            let all = sorted(tags.split(':').filter(|tag| !tag.is_empty()));
            *tags = format!(":{}:", all.join(":"));
        }
    }
    properties
}

fn sorted<'a>(words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut words: Vec<_> = words.collect();
    words.sort_unstable();
    words
}

//! The network of a container: addresses that the host routes to it, as `OpenVZ` did (venet).
//!
//! A pair of interfaces leads from the host into the container; the host has a route to its end for each address, the container
//! a default route out of its own. What comes from the container is filtered at the host's end: nothing passes but what has one
//! of its addresses for a source. What has to be done follows from what is wanted and what is there ([`plan`], pure), so that a
//! start and a change of a running container are the same thing, and one that was interrupted is mended by the next.

mod apply;
mod host;
mod look;
mod plan;
mod taken;
mod tool;

pub(crate) use apply::{apply, change, release};
pub(crate) use host::{Host, Lan};
pub(crate) use taken::{TakenError, check as check_taken};

use crate::definition::Address;
use devbroker::model::ContainerName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use tool::Tool;

/// The container's end of the link, called as `OpenVZ` had it: what a system that comes from there has configured is its own, and
/// nothing else takes it for a network card that it should ask for an address on.
pub(crate) const INSIDE: &str = "venet0";
/// What the names of the host's ends begin with.
pub(crate) const PREFIX: &str = "ctm-";
/// The longest name of an interface (`IFNAMSIZ`, without its end).
const MAX_NAME: usize = 15;
/// Who the container is on the link itself.
const NEIGHBOUR: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2));

/// What can go wrong with a network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("cannot run {tool}: {source}; install the package iproute2")]
    Run { tool: Tool, source: io::Error },
    /// A program said no.
    #[error("`{what}` failed: {message}; {}", remedy(.what))]
    Failed { what: String, message: String },
    /// A program said something else.
    #[error("what `{what}` says cannot be understood: {source}; is iproute2 older than 6.0?")]
    Answer { what: String, source: serde_json::Error },
    /// A program said more than anybody wants to know.
    #[error(
        "`{what}` says more than {most} bytes, of which no more is read; where it is the container's own root that has filled its \
         network, `ctm restart` gives it a new one, and `ctm set NAME ip=` takes it out of the host's"
    )]
    TooMuch { what: String, most: u64 },
    #[error(
        "interface {device} is container {other}'s, and would be called the same here; `ctm rename` one of them"
    )]
    Foreign { device: String, other: String },
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is damaged: {source}; remove it, and what of `ip neighbour show proxy` was this container's", .path.display())]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("cannot enter the container's network namespace: {0}")]
    Namespace(#[from] io::Error),
    #[error("the container's run has no first process written down; this is a bug in ctm")]
    NoInit,
}

/// The first of the programs that a network needs and that is not there.
pub(crate) fn missing_tool() -> Option<String> {
    tool::missing().map(|tool| tool.to_string())
}

/// Whether this kernel has IPv6.
pub(crate) fn has_ipv6() -> bool {
    look::has_ipv6()
}

/// Why the host does not pass on what is for these addresses, and what to do about it, as far as that can be told.
pub(crate) fn not_passed_on(addresses: &[Address]) -> Option<String> {
    if addresses.is_empty() || tool::missing().is_some() {
        return None;
    }
    Host::read().ok()?.not_passed_on(addresses)
}

/// What to do about a command that failed.
fn remedy(what: &str) -> &'static str {
    if what.contains(" clsact") || what.contains(" flower ") || what.contains(" matchall ") {
        "the filter needs the kernel's modules sch_ingress, cls_flower, cls_matchall and act_gact, and nothing is routed without it"
    } else if what.contains("link add") {
        "the link needs the kernel's module veth, and in the container no other interface venet0"
    } else if what.contains("route add") {
        "`ip route show table all` on the host shows what has this route already"
    } else if what.contains("address add") && what.contains(" nodad ") {
        "an interface with a MTU below 1280 has no IPv6, and none has it where the kernel's module ipv6 has disable_ipv6=1; `ip address` on \
         the host and in the container shows what is there"
    } else {
        "`ip address` on the host and in the container shows what is there"
    }
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Where a container's default route leads: the host's end of its link, the same on every link.
const fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(169, 254, 0, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    }
}

/// What is done with something that comes from a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    /// All that no other rule lets through is dropped.
    Drop,
    /// What has this source passes.
    Source(IpAddr),
    /// ARP of who says to have this address passes.
    Sender(Ipv4Addr),
    /// The container may ask who has an address on the link, as [`NEIGHBOUR`].
    Solicitation,
    /// And say that it is that.
    Advertisement,
}

/// What a container's network is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    pub(crate) name: ContainerName,
    pub(crate) addresses: Vec<Address>,
}

impl Wanted {
    /// The host's end of the link: `ctm-NAME`; of a name that is too long, its first four characters and a number that follows
    /// from all of it. No container's name has a `~` in it.
    pub(crate) fn device(&self) -> String {
        let name = self.name.as_str();
        if name.len() + PREFIX.len() <= MAX_NAME {
            return format!("{PREFIX}{name}");
        }
        let begin: String = name.chars().take(4).collect();
        format!("{PREFIX}{begin}~{}", hex(&self.number("name"), 3))
    }

    /// The address of one end on the link: a locally administered one that stays the same.
    fn mac(&self, end: &str) -> String {
        let number = self.number(end);
        number.iter().take(5).fold("02".to_owned(), |mut text, byte| {
            // Writing to a String does not fail.
            write!(text, ":{byte:02x}").ok();
            text
        })
    }

    fn number(&self, of: &str) -> Vec<u8> {
        Sha256::digest(format!("{of}:{}", self.name)).to_vec()
    }
}

fn hex(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.addresses.is_empty() {
            return f.write_str("give it no address");
        }
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        write!(f, "route {} to it by {}", addresses.join(", "), self.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn wanted(name: &str) -> Wanted {
        Wanted {
            name: name.parse().unwrap(),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn what_to_do_about_what_failed() {
        for (what, part) in [
            ("tc qdisc add dev ctm-a clsact", "cls_flower"),
            ("ip link add name ctm-a type veth peer name venet0", "module veth"),
            ("ip route add 192.0.2.1 dev ctm-a", "ip route show table all"),
            ("ip address add 2001:db8::1/128 nodad dev venet0", "disable_ipv6"),
            ("ip address add 192.0.2.1/32 dev venet0", "`ip address`"),
        ] {
            assert!(remedy(what).contains(part), "{what}");
        }
    }

    #[test]
    fn every_container_has_an_interface_of_its_own() {
        let names = [
            "a",
            "elevencharx",
            "twelve_chars",
            "twelve_charsX",
            "twelve.chars-and.many.more",
        ];
        let devices: Vec<_> = names.iter().map(|name| wanted(name).device()).collect();
        assert_eq!(devices[..2], ["ctm-a", "ctm-elevencharx"]);
        assert!(devices[2].starts_with("ctm-twel~"), "{devices:?}");
        assert!(
            devices.iter().all(|device| device.len() <= MAX_NAME),
            "{devices:?}"
        );
        assert_eq!(devices.iter().collect::<BTreeSet<_>>().len(), names.len());
        // What the host's rules name stays the same.
        assert_eq!(wanted("twelve_chars").device(), "ctm-twel~be02bf");
    }

    #[test]
    fn ends_have_addresses_of_their_own() {
        let (a, b) = (wanted("a"), wanted("b"));
        let all = [a.mac("host"), a.mac("inside"), b.mac("host"), b.mac("inside")];
        assert!(
            all.iter().all(|mac| mac.len() == 17 && mac.starts_with("02:")),
            "{all:?}"
        );
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 4);
    }
}

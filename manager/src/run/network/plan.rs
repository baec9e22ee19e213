//! How a container's network gets from what is there to what is wanted: data, in order. Pure.
//!
//! Nothing is routed to a container before its end on the host lets only what it may send through, and an address that goes
//! loses its route before the filter forgets it.

use super::{Family, Lan, NEIGHBOUR, Rule, Wanted, gateway};
use crate::definition::Address;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Where the rule is that drops; all others come before it.
const LAST: u16 = 60_000;

/// The link between host and container, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) is_up: bool,
    /// Whether its other end is the container's.
    pub(super) is_paired: bool,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// Whether the kernel knows IPv6.
    pub(super) has_ipv6: bool,
    /// The host's networks.
    pub(super) lans: Vec<Lan>,
    /// For which addresses the host answers on which interface, and whether that is our doing, for this container.
    pub(super) proxies: BTreeMap<(IpAddr, String), bool>,
    /// The link, and what is on it.
    pub(super) link: Option<Link>,
    /// Whether what comes from the container is filtered at all.
    pub(super) is_guarded: bool,
    /// The rules by their places; those that are not ours as nothing.
    pub(super) rules: BTreeMap<u16, Option<Rule>>,
    /// Settings of the host's end.
    pub(super) settings: BTreeMap<Setting, String>,
    /// Addresses of the host's end, with the lengths of their prefixes.
    pub(super) host: BTreeMap<IpAddr, u8>,
    pub(super) routes: BTreeSet<IpAddr>,
    pub(super) inside_is_up: bool,
    /// Addresses of the container's end, with the lengths of their prefixes.
    pub(super) inside: BTreeMap<IpAddr, u8>,
    /// The default routes over the container's end, and what they have for a source.
    pub(super) defaults: BTreeMap<Family, Option<IpAddr>>,
}

/// A setting of the host's end of the link, a file below `/proc/sys/net/FAMILY/conf/INTERFACE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Setting {
    pub(super) family: &'static str,
    pub(super) name: &'static str,
}

/// What the host's end is told. The host takes no routes and no
/// routers from the container, and answers for nothing but its own end.
const SETTINGS: [(&str, &str, &str); 13] = [
    ("ipv4", "accept_redirects", "0"),
    ("ipv4", "accept_source_route", "0"),
    ("ipv4", "arp_ignore", "1"),
    ("ipv4", "proxy_arp", "0"),
    ("ipv4", "route_localnet", "0"),
    ("ipv4", "rp_filter", "1"),
    ("ipv4", "secure_redirects", "0"),
    ("ipv4", "send_redirects", "0"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "accept_redirects", "0"),
    ("ipv6", "accept_source_route", "-1"),
    ("ipv6", "autoconf", "0"),
    ("ipv6", "proxy_ndp", "0"),
];
/// Whether the host's end has IPv6 at all.
const WITHOUT_IPV6: Setting = Setting {
    family: "ipv6",
    name: "disable_ipv6",
};

/// All settings there are.
pub(super) fn settings() -> impl Iterator<Item = Setting> {
    let of = |(family, name, _)| Setting { family, name };
    SETTINGS.into_iter().map(of).chain([WITHOUT_IPV6])
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// The link is taken away, with all that is on it.
    Unlink,
    /// The link is made, both ends down.
    Link,
    /// From now on there can be rules for what comes from the container.
    Guard,
    /// A rule goes.
    Unrule(u16),
    /// A rule comes.
    Rule(u16, Rule),
    /// A setting of the host's end.
    Set(Setting, &'static str),
    /// By this the host's end answers.
    HostAddress(IpAddr),
    HostUp,
    InsideUp,
    InsideAddress(IpAddr),
    /// The container sends what it has no other route for to the host, from this source.
    Default(Family, IpAddr),
    /// The host sends what is for this address to the container.
    Route(IpAddr),
    /// The host answers for an address on another of its interfaces.
    Proxy(IpAddr, String),
    Unproxy(IpAddr, String),
    Unroute(IpAddr),
    InsideAddressGone(IpAddr, u8),
    HostAddressGone(IpAddr, u8),
}

/// What remains to be done.
pub(super) fn plan(wanted: &Wanted, seen: &Seen) -> Vec<Change> {
    let goes = |link: &Link| wanted.addresses.is_empty() || !link.is_paired;
    let unlinked = seen.link.as_ref().is_some_and(goes);
    let proxies: BTreeSet<_> = wanted.proxies(&seen.lans).collect();
    let no_proxy = seen
        .proxies
        .iter()
        .filter(|(proxy, is_ours)| **is_ours && !proxies.contains(*proxy))
        .map(|((ip, device), _)| Change::Unproxy(*ip, device.clone()));
    let mut changes = Vec::new();
    if wanted.addresses.is_empty() {
        changes.extend(no_proxy);
        changes.extend(unlinked.then_some(Change::Unlink));
        return changes;
    }
    let bare = Seen {
        has_ipv6: seen.has_ipv6,
        ..Seen::default()
    };
    let there = if unlinked { &bare } else { seen };
    changes.extend(unlinked.then_some(Change::Unlink));
    if there.link.is_none() {
        changes.push(Change::Link);
    }
    let obsolete = filter(wanted, there, &mut changes);
    ends(wanted, there, &mut changes);
    let missing = wanted.ips().filter(|ip| !there.routes.contains(ip));
    changes.extend(missing.map(Change::Route));
    let unanswered = proxies.iter().filter(|proxy| !seen.proxies.contains_key(proxy));
    changes.extend(unanswered.cloned().map(|(ip, device)| Change::Proxy(ip, device)));
    // What is added is in its place before anything goes: the container is never without a way out.
    changes.extend(no_proxy);
    let is_wanted = |ip: &IpAddr| wanted.ips().any(|wanted| wanted == *ip);
    let gone = there.routes.iter().copied().filter(|ip| !is_wanted(ip));
    changes.extend(gone.map(Change::Unroute));
    let of_inside = wanted.inside();
    let gone = there.inside.iter().filter(|(ip, _)| !of_inside.contains(ip));
    changes.extend(gone.map(|(ip, prefix)| Change::InsideAddressGone(*ip, *prefix)));
    let of_host = wanted.host();
    let gone = there.host.iter().filter(|(ip, _)| !of_host.contains(ip));
    changes.extend(gone.map(|(ip, prefix)| Change::HostAddressGone(*ip, *prefix)));
    // It takes routes and addresses along, so they go first.
    if there.has_ipv6 && !wanted.families().contains(&Family::V6) {
        changes.extend(set(there, WITHOUT_IPV6, "1"));
    }
    changes.extend(obsolete.into_iter().map(Change::Unrule));
    changes
}

/// What lets through what the container may send, and drops all else; answers with the rules that are obsolete when all else is done.
/// Those that nobody here made could let anything through, and go at once.
fn filter(wanted: &Wanted, there: &Seen, changes: &mut Vec<Change>) -> Vec<u16> {
    if !there.is_guarded {
        changes.push(Change::Guard);
    }
    let rules = wanted.rules();
    let mut kept = BTreeSet::new();
    let mut obsolete = Vec::new();
    for (place, rule) in &there.rules {
        match rule {
            Some(rule) if (*rule == Rule::Drop) == (*place == LAST) && !kept.contains(rule) => {
                if rules.contains(rule) {
                    kept.insert(*rule);
                } else {
                    obsolete.push(*place);
                }
            }
            Some(_) | None => changes.push(Change::Unrule(*place)),
        }
    }
    let mut free = (1..LAST).filter(|place| !there.rules.contains_key(place));
    for rule in rules.difference(&kept) {
        let place = if *rule == Rule::Drop {
            Some(LAST)
        } else {
            free.next()
        };
        changes.extend(place.map(|place| Change::Rule(place, *rule)));
    }
    obsolete
}

/// What a setting lacks of being so.
fn set(there: &Seen, setting: Setting, text: &'static str) -> Option<Change> {
    let is_so = there.settings.get(&setting).map(String::as_str) == Some(text);
    (!is_so).then_some(Change::Set(setting, text))
}

/// Both ends of the link: settings, addresses, up, and the way out of the container.
fn ends(wanted: &Wanted, there: &Seen, changes: &mut Vec<Change>) {
    if there.has_ipv6 && wanted.families().contains(&Family::V6) {
        changes.extend(set(there, WITHOUT_IPV6, "0"));
    }
    // Without IPv6 there is nothing to set of it.
    let known = |(family, ..): &(&str, &str, &str)| *family == "ipv4" || there.has_ipv6;
    for (family, name, text) in SETTINGS.into_iter().filter(known) {
        changes.extend(set(there, Setting { family, name }, text));
    }
    let missing = |ip: &IpAddr| !there.host.contains_key(ip);
    changes.extend(wanted.host().into_iter().filter(missing).map(Change::HostAddress));
    if !there.link.is_some_and(|link| link.is_up) {
        changes.push(Change::HostUp);
    }
    let none = BTreeMap::new();
    let defaults = if there.inside_is_up {
        &there.defaults
    } else {
        changes.push(Change::InsideUp);
        // What it had there in routes went with its going down.
        &none
    };
    let missing = |ip: &IpAddr| !there.inside.contains_key(ip);
    changes.extend(
        wanted
            .inside()
            .into_iter()
            .filter(missing)
            .map(Change::InsideAddress),
    );
    for family in wanted.families() {
        let first = wanted.ips().find(|ip| Family::of(*ip) == family);
        if let Some(first) = first.filter(|first| defaults.get(&family) != Some(&Some(*first))) {
            changes.push(Change::Default(family, first));
        }
    }
}

impl Wanted {
    pub(super) fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().map(Address::ip)
    }

    pub(super) fn families(&self) -> BTreeSet<Family> {
        self.ips().map(Family::of).collect()
    }

    /// Addresses of the host's end.
    fn host(&self) -> BTreeSet<IpAddr> {
        self.families().into_iter().map(gateway).collect()
    }

    /// Addresses of the container's end.
    fn inside(&self) -> BTreeSet<IpAddr> {
        let own = self.families().contains(&Family::V6).then_some(NEIGHBOUR);
        self.ips().chain(own).collect()
    }

    /// What the container may send.
    fn rules(&self) -> BTreeSet<Rule> {
        let mut rules: BTreeSet<_> = [Rule::Drop].into();
        for ip in self.ips() {
            rules.insert(Rule::Source(ip));
            match ip {
                IpAddr::V4(ip) => rules.insert(Rule::Sender(ip)),
                IpAddr::V6(_) => rules.insert(Rule::Solicitation) | rules.insert(Rule::Advertisement),
            };
        }
        rules
    }

    /// For which address the host has to answer on which interface: where a network is that the address seems to be in.
    fn proxies(&self, lans: &[Lan]) -> impl Iterator<Item = (IpAddr, String)> {
        let on = |ip: IpAddr| {
            let near = lans.iter().filter(move |lan| lan.covers(ip));
            near.map(move |lan| (ip, lan.device.clone()))
        };
        self.ips().flat_map(on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(addresses: &[&str]) -> Wanted {
        Wanted {
            name: "web".parse().unwrap(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn lan() -> Lan {
        Lan {
            device: "eth0".into(),
            ip: "192.0.2.1".parse().unwrap(),
            prefix: 24,
        }
    }

    /// What the kernel makes of a change.
    fn apply(seen: &mut Seen, change: &Change) {
        let link = |seen: &Seen| seen.link.expect("the link is there");
        match change.clone() {
            Change::Unlink => {
                *seen = Seen {
                    has_ipv6: seen.has_ipv6,
                    lans: seen.lans.clone(),
                    proxies: seen.proxies.clone(),
                    ..Seen::default()
                };
            }
            Change::Link => {
                assert_eq!(seen.link, None);
                seen.link = Some(Link {
                    is_up: false,
                    is_paired: true,
                });
                seen.settings = settings().map(|setting| (setting, "7".into())).collect();
            }
            Change::Guard => seen.is_guarded = true,
            Change::Unrule(place) => assert!(seen.rules.remove(&place).is_some()),
            Change::Rule(place, rule) => {
                assert!(link(seen).is_paired && seen.is_guarded);
                assert_eq!(seen.rules.insert(place, Some(rule)), None);
            }
            Change::Set(setting, text) => {
                link(seen);
                if (setting, text) == (WITHOUT_IPV6, "1") {
                    seen.routes.retain(IpAddr::is_ipv4);
                    seen.host.retain(|ip, _| ip.is_ipv4());
                }
                seen.settings.insert(setting, text.into());
            }
            Change::HostAddress(ip) => {
                let off = seen.settings.get(&WITHOUT_IPV6).map(String::as_str) == Some("1");
                assert!(ip.is_ipv4() || !off);
                assert_eq!(seen.host.insert(ip, 32), None);
            }
            Change::HostUp => {
                let last = seen.rules.get(&LAST);
                assert!(seen.is_guarded && last == Some(&Some(Rule::Drop)));
                seen.link = Some(Link {
                    is_up: true,
                    ..link(seen)
                });
            }
            Change::InsideUp => {
                link(seen);
                (seen.inside_is_up, seen.defaults) = (true, BTreeMap::new());
            }
            Change::InsideAddress(ip) => assert_eq!(seen.inside.insert(ip, 32), None),
            Change::Default(family, source) => {
                assert!(seen.inside_is_up && seen.inside.contains_key(&source));
                seen.defaults.insert(family, Some(source));
            }
            Change::Route(ip) => {
                assert!(link(seen).is_up);
                assert!(seen.routes.insert(ip));
            }
            Change::Proxy(ip, device) => {
                assert!(seen.routes.contains(&ip));
                assert_eq!(seen.proxies.insert((ip, device), true), None);
            }
            Change::Unproxy(ip, device) => assert_eq!(seen.proxies.remove(&(ip, device)), Some(true)),
            Change::Unroute(ip) => assert!(seen.routes.remove(&ip)),
            Change::InsideAddressGone(ip, prefix) => {
                assert_eq!(seen.inside.remove(&ip), Some(prefix));
                seen.defaults.retain(|_, source| *source != Some(ip));
            }
            Change::HostAddressGone(ip, prefix) => assert_eq!(seen.host.remove(&ip), Some(prefix)),
        }
        // Nobody can be reached who could send anything.
        assert!(
            seen.routes.is_empty() || seen.rules.get(&LAST) == Some(&Some(Rule::Drop)) && seen.is_guarded
        );
    }

    fn applied(wanted: &Wanted, seen: &mut Seen) -> usize {
        let changes = plan(wanted, seen);
        for change in &changes {
            apply(seen, change);
        }
        changes.len()
    }

    fn fresh() -> Seen {
        Seen {
            has_ipv6: true,
            lans: vec![lan()],
            ..Seen::default()
        }
    }

    #[test]
    fn from_nothing_in_its_order() {
        let changes = plan(&wanted(&["192.0.2.10", "2001:db8::10"]), &fresh());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (four, six) = (ip("192.0.2.10"), ip("2001:db8::10"));
        let is_set = |change: &Change| matches!(change, Change::Set(..));
        assert_eq!(changes.iter().filter(|change| is_set(change)).count(), 14);
        let others: Vec<_> = changes.into_iter().filter(|change| !is_set(change)).collect();
        assert_eq!(
            others,
            [
                Change::Link,
                Change::Guard,
                Change::Rule(LAST, Rule::Drop),
                Change::Rule(1, Rule::Source(four)),
                Change::Rule(2, Rule::Source(six)),
                Change::Rule(3, Rule::Sender("192.0.2.10".parse().unwrap())),
                Change::Rule(4, Rule::Solicitation),
                Change::Rule(5, Rule::Advertisement),
                Change::HostAddress(gateway(Family::V4)),
                Change::HostAddress(gateway(Family::V6)),
                Change::HostUp,
                Change::InsideUp,
                Change::InsideAddress(four),
                Change::InsideAddress(six),
                Change::InsideAddress(NEIGHBOUR),
                Change::Default(Family::V4, four),
                Change::Default(Family::V6, six),
                Change::Route(four),
                Change::Route(six),
                Change::Proxy(four, "eth0".into()),
            ]
        );
    }

    #[test]
    fn one_address_for_another() {
        let mut seen = fresh();
        applied(&wanted(&["192.0.2.10", "10.0.0.1"]), &mut seen);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (old, new) = (ip("192.0.2.10"), ip("192.0.2.11"));
        assert_eq!(
            plan(&wanted(&["192.0.2.11", "10.0.0.1"]), &seen),
            [
                Change::Rule(5, Rule::Source(new)),
                Change::Rule(6, Rule::Sender("192.0.2.11".parse().unwrap())),
                Change::InsideAddress(new),
                Change::Default(Family::V4, new),
                Change::Route(new),
                Change::Proxy(new, "eth0".into()),
                Change::Unproxy(old, "eth0".into()),
                Change::Unroute(old),
                Change::InsideAddressGone(old, 32),
                Change::Unrule(2),
                Change::Unrule(4),
            ]
        );
    }

    #[test]
    fn a_link_that_is_another_s_or_of_no_use_goes() {
        let mut seen = fresh();
        applied(&wanted(&["192.0.2.10"]), &mut seen);
        seen.link = Some(Link {
            is_up: true,
            is_paired: false,
        });
        let changes = plan(&wanted(&["192.0.2.10"]), &seen);
        assert_eq!(changes.get(..2), Some([Change::Unlink, Change::Link].as_slice()));
        assert_eq!(
            plan(&wanted(&[]), &seen),
            [
                Change::Unproxy("192.0.2.10".parse().unwrap(), "eth0".into()),
                Change::Unlink
            ]
        );
        assert_eq!(plan(&wanted(&[]), &fresh()), []);
    }

    #[test]
    fn the_administrator_s_own_answer_stays() {
        let mut seen = fresh();
        let own = ("192.0.2.10".parse().unwrap(), "eth0".to_owned());
        seen.proxies.insert(own.clone(), false);
        applied(&wanted(&["192.0.2.10"]), &mut seen);
        applied(&wanted(&[]), &mut seen);
        assert_eq!(seen.proxies, [(own, false)].into());
    }

    fn ips() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (8_u8..13).prop_map(|last| IpAddr::from([192, 0, 2, last])),
            (8_u16..12).prop_map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])),
        ]
    }

    fn addresses() -> impl Strategy<Value = Wanted> {
        prop::collection::btree_set(ips(), 0..4).prop_map(|ips| Wanted {
            name: "web".parse().unwrap(),
            addresses: ips.into_iter().map(|ip| ip.try_into().unwrap()).collect(),
        })
    }

    fn rule() -> impl Strategy<Value = Option<Rule>> {
        prop_oneof![
            Just(None),
            Just(Some(Rule::Drop)),
            Just(Some(Rule::Solicitation)),
            ips().prop_map(|ip| Some(Rule::Source(ip))),
        ]
    }

    prop_compose! {
        /// What a container's root, an administrator or a ctm that was killed may leave.
        fn anything()(
            link in prop::option::of((any::<bool>(), any::<bool>())),
            is_guarded: bool,
            rules in prop::collection::btree_map(prop_oneof![1_u16..9, Just(LAST)], rule(), 0..5),
            host in prop::collection::btree_map(prop_oneof![ips(), Just(gateway(Family::V4))], 1_u8..33, 0..3),
            routes in prop::collection::btree_set(ips(), 0..4),
            inside_is_up: bool,
            inside in prop::collection::btree_map(prop_oneof![ips(), Just(NEIGHBOUR)], 1_u8..33, 0..5),
            proxies in prop::collection::btree_map(ips().prop_map(|ip| (ip, "eth0".to_owned())), any::<bool>(), 0..4),
        ) -> Seen {
            let found = Seen { proxies, ..fresh() };
            let Some((is_up, is_paired)) = link else { return found };
            let last = [(LAST, Some(Rule::Drop))];
            let is_open = !is_guarded || !rules.iter().any(|(place, rule)| (*place, *rule) == last[0]);
            Seen {
                link: Some(Link { is_up, is_paired }),
                is_guarded,
                rules: if is_guarded { rules } else { BTreeMap::new() },
                // Of ours it never is: the filter is there first and goes last.
                routes: if is_open { BTreeSet::new() } else { routes },
                host,
                inside_is_up,
                inside,
                ..found
            }
        }
    }

    proptest! {
        #[test]
        fn once_done_nothing_remains(mut seen in anything(), first in addresses(), second in addresses()) {
            for wanted in [&first, &second, &first] {
                applied(wanted, &mut seen);
                prop_assert_eq!(plan(wanted, &seen), []);
                prop_assert_eq!(seen.routes.iter().copied().collect::<BTreeSet<_>>(), wanted.ips().collect());
                let passing: BTreeSet<_> = seen.rules.values().flatten().copied().collect();
                if wanted.addresses.is_empty() {
                    prop_assert_eq!(seen.link, None);
                } else {
                    prop_assert_eq!(passing, wanted.rules());
                    prop_assert_eq!(seen.inside.keys().copied().collect::<BTreeSet<_>>(), wanted.inside());
                }
                prop_assert!(seen.proxies.iter().all(|((ip, _), is_ours)| !is_ours || wanted.ips().any(|own| own == *ip)));
            }
        }

        /// Wherever it is interrupted, the same change ends as if it had not been.
        #[test]
        fn half_done_is_mended(first in addresses(), second in addresses(), part: prop::sample::Index) {
            let (mut seen, mut whole) = (fresh(), fresh());
            applied(&first, &mut seen);
            applied(&second, &mut whole);
            let changes = plan(&second, &seen);
            for change in changes.iter().take(part.index(changes.len() + 1)) {
                apply(&mut seen, change);
            }
            applied(&second, &mut seen);
            prop_assert_eq!(plan(&second, &seen), []);
            prop_assert_eq!((seen.routes, seen.inside, seen.defaults, seen.proxies),
                (whole.routes, whole.inside, whole.defaults, whole.proxies));
        }
    }
}

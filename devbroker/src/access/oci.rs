//! What an OCI runtime lets its container do: the device rules of its `config.json`, as a seed.

use super::{DEFAULT_SEED, Numbers, SeedRule};
use crate::model::{Access, DevKind};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// A runtime whose own defaults are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// crun, also below Podman.
    Crun,
    /// runc, also below Docker and containerd.
    Runc,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crun => "crun",
            Self::Runc => "runc",
        })
    }
}

impl Runtime {
    /// What it lets every container do, whatever the configuration says. The console and the tunnel are in some versions'
    /// lists and not in others'; `listed` is what this one told systemd, if it did.
    fn defaults(self, listed: Option<&[(String, String)]>) -> impl Iterator<Item = SeedRule> {
        let depends = [((5, 1), self == Self::Crun), ((10, 200), false)];
        let more = depends.into_iter().filter_map(move |((major, minor), usual)| {
            let node = format!("/dev/char/{major}:{minor}");
            listed
                .map_or(usual, |listed| listed.iter().any(|(name, _)| *name == node))
                .then_some(SeedRule {
                    kind: DevKind::Char,
                    numbers: Numbers::One(major, minor),
                    access: Access::ALL,
                })
        });
        DEFAULT_SEED.iter().copied().chain(more)
    }
}

/// A configuration from which no seed can be made.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// It is not what the runtime specification says.
    #[error("the runtime's config.json cannot be read: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A rule that the filter has no form for.
    #[error("the runtime's device rule `{0}` cannot be kept by devbroker's filter")]
    Inexpressible(String),
}

#[derive(Deserialize)]
struct Spec {
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Linux {
    resources: Option<Resources>,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    devices: Vec<Rule>,
}

/// One entry of `linux.resources.devices` (`config-linux.md`, "Allowed Device list"): applied in order, the last that
/// matches counts.
#[derive(Deserialize)]
struct Rule {
    allow: bool,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    access: Option<String>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<i64>| number.map_or("*".into(), |number| number.to_string());
        write!(
            f,
            "{} {} {}:{} {}",
            if self.allow { "allow" } else { "deny" },
            self.kind.as_deref().unwrap_or("a"),
            number(self.major),
            number(self.minor),
            self.access.as_deref().unwrap_or("")
        )
    }
}

impl Rule {
    fn kinds(&self) -> Option<&'static [DevKind]> {
        match self.kind.as_deref().unwrap_or("a") {
            "" | "a" => Some(&[DevKind::Block, DevKind::Char]),
            "b" => Some(&[DevKind::Block]),
            "c" | "u" => Some(&[DevKind::Char]),
            _ => None,
        }
    }

    fn numbers(&self) -> Option<Numbers> {
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Some(None),
            Some(number) => u32::try_from(number).ok().map(Some),
        };
        match (number(self.major)?, number(self.minor)?) {
            (None, None) => Some(Numbers::All),
            (Some(major), None) => Some(Numbers::Major(major)),
            (Some(major), Some(minor)) => Some(Numbers::One(major, minor)),
            (None, Some(_)) => None,
        }
    }

    fn access(&self) -> Option<Access> {
        match self.access.as_deref() {
            // Without letters an allow gives nothing and a deny takes all: the careful reading of either.
            None | Some("") if self.allow => Some(Access::NONE),
            None | Some("") => Some(Access::ALL),
            Some(text) => text.parse().ok(),
        }
    }
}

/// Whether every number in `inner` is in `outer`.
fn covers(outer: Numbers, inner: Numbers) -> bool {
    match (outer, inner) {
        (Numbers::All, _) => true,
        (Numbers::Major(a), Numbers::Major(b) | Numbers::One(b, _)) => a == b,
        (Numbers::One(..), Numbers::One(..)) => outer == inner,
        (Numbers::Major(_), Numbers::All) | (Numbers::One(..), Numbers::All | Numbers::Major(_)) => false,
    }
}

/// What the runtime lets the container do that has this `config.json`. `listed`: the unit's `DeviceAllow=` as the runtime set
/// it, where systemd runs the container.
pub fn seed(
    config: &[u8],
    runtime: Runtime,
    listed: Option<&[(String, String)]>,
) -> Result<Vec<SeedRule>, OciError> {
    let spec: Spec = serde_json::from_slice(config)?;
    let rules = spec
        .linux
        .and_then(|linux| linux.resources)
        .map(|resources| resources.devices)
        .unwrap_or_default();
    let mut allowed = BTreeMap::<(DevKind, Numbers), Access>::new();
    for rule in &rules {
        let inexpressible = || OciError::Inexpressible(rule.to_string());
        let kinds = rule.kinds().ok_or_else(inexpressible)?;
        let numbers = rule.numbers().ok_or_else(inexpressible)?;
        let access = rule.access().ok_or_else(inexpressible)?;
        for kind in kinds {
            if rule.allow {
                let entry = allowed.entry((*kind, numbers)).or_default();
                *entry = entry.union(access);
            } else {
                deny(&mut allowed, *kind, numbers, access).ok_or_else(inexpressible)?;
            }
        }
    }
    for rule in runtime.defaults(listed) {
        let entry = allowed.entry((rule.kind, rule.numbers)).or_default();
        *entry = entry.union(rule.access);
    }
    Ok(allowed
        .into_iter()
        .filter(|(_, access)| !access.is_empty())
        .map(|((kind, numbers), access)| SeedRule {
            kind,
            numbers,
            access,
        })
        .collect())
}

/// Takes a range out. None where it would leave a hole in a wider rule: the filter only adds.
fn deny(
    allowed: &mut BTreeMap<(DevKind, Numbers), Access>,
    kind: DevKind,
    numbers: Numbers,
    access: Access,
) -> Option<()> {
    for ((its_kind, its_numbers), its_access) in allowed.iter_mut() {
        if *its_kind != kind {
            continue;
        }
        if covers(numbers, *its_numbers) {
            *its_access = Access::from_bits(its_access.bits() & !access.bits());
        } else if covers(*its_numbers, numbers) && its_access.bits() & access.bits() != 0 {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rules: &str, runtime: Runtime) -> String {
        let config = format!(r#"{{"ociVersion":"1.0.0","linux":{{"resources":{{"devices":{rules}}}}}}}"#);
        match seed(config.as_bytes(), runtime, None) {
            Ok(rules) => rules
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            Err(error) => error.to_string(),
        }
    }

    const RUNC: &str = "b *:* m, c *:* m, c 136:* rwm, c 1:3 rwm, c 1:5 rwm, c 1:7 rwm, c 1:8 rwm, c 1:9 rwm, c 5:0 rwm, c 5:2 rwm";

    #[test]
    fn rules_become_seeds() {
        let with = |more: &str| RUNC.replace(", c 5:2", &format!(", {more}c 5:2"));
        for (rules, expected) in [
            ("[]", RUNC.to_string()),
            (r#"[{"allow":false,"access":"rwm"}]"#, RUNC.to_string()),
            (
                r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":5,"minor":1,"access":"rw"}]"#,
                with("c 5:1 rw, "),
            ),
            // What a later rule takes is gone.
            (
                r#"[{"allow":true,"type":"c","major":5,"minor":1,"access":"rw"},{"allow":false,"type":"a","access":"w"}]"#,
                with("c 5:1 r, "),
            ),
            (
                r#"[{"allow":true,"type":"c","major":5,"minor":1,"access":"rw"},{"allow":false}]"#,
                RUNC.to_string(),
            ),
            (
                r#"[{"allow":true,"type":"c","major":9,"minor":-1,"access":"w"}, {"allow":true,"type":"b","major":9,"access":"r"}]"#,
                "b *:* m, b 9:* r, c *:* m, c 9:* w, c 136:* rwm, c 1:3 rwm, c 1:5 rwm, c 1:7 rwm, c 1:8 rwm, c 1:9 rwm, c 5:0 rwm, c 5:2 rwm".to_string(),
            ),
            (
                r#"[{"allow":true,"type":"c","access":"rwm"},{"allow":false,"type":"c","major":10,"minor":200,"access":"r"}]"#,
                "the runtime's device rule `deny c 10:200 r` cannot be kept by devbroker's filter".to_string(),
            ),
            (
                r#"[{"allow":true,"type":"c","minor":200,"access":"r"}]"#,
                "the runtime's device rule `allow c *:200 r` cannot be kept by devbroker's filter".to_string(),
            ),
            (
                r#"[{"allow":true,"type":"p","access":"r"}]"#,
                "the runtime's device rule `allow p *:* r` cannot be kept by devbroker's filter".to_string(),
            ),
        ] {
            let mut got: Vec<_> = of(rules, Runtime::Runc).split(", ").map(String::from).collect();
            let mut expected: Vec<_> = expected.split(", ").map(String::from).collect();
            got.sort();
            expected.sort();
            assert_eq!(got, expected, "{rules}");
        }
        // A privileged container keeps everything.
        let all = of(r#"[{"allow":true,"access":"rwm"}]"#, Runtime::Crun);
        assert!(
            all.contains("b *:* rwm") && all.contains("c *:* rwm") && all.contains("c 5:1 rwm"),
            "{all}"
        );
        assert!(of("7", Runtime::Crun).starts_with("the runtime's config.json cannot be read: invalid type"));
        assert!(seed(b"{}", Runtime::Crun, None).is_ok());
    }

    #[test]
    fn what_the_version_at_hand_has() {
        let listed = |names: &[&str]| -> Vec<(String, String)> {
            names.iter().map(|name| ((*name).into(), "rwm".into())).collect()
        };
        for (names, expected) in [
            (None, "c 5:1 rwm"),
            (Some(listed(&["/dev/char/1:3"])), ""),
            (
                Some(listed(&["/dev/char/10:200", "/dev/char/1:3"])),
                "c 10:200 rwm",
            ),
            (
                Some(listed(&["/dev/char/10:200", "/dev/char/5:1"])),
                "c 5:1 rwm, c 10:200 rwm",
            ),
        ] {
            let more: Vec<_> = seed(b"{}", Runtime::Crun, names.as_deref())
                .unwrap()
                .into_iter()
                .filter(|rule| !DEFAULT_SEED.contains(rule))
                .map(|rule| rule.to_string())
                .collect();
            assert_eq!(more.join(", "), expected, "{names:?}");
        }
    }
}

//! Taking a foreign container's filter over: who owns which device program, and what is to be done. Pure.
//!
//! Every program on a cgroup and on its ancestors must allow an access. So whoever denies must make room: the runtime's
//! program is displaced by ours, which is seeded with the same rules; systemd is told to keep none for the container's
//! unit, where ours stands in for it. Anything else belongs to somebody whose intent we do not know: refused, and named.

use super::oci::Runtime;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The name that systemd gives its device programs (`bpf-devices.c`).
pub const SYSTEMD_NAME: &str = "sd_devices";

/// A device program as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its id.
    pub id: u32,
    /// Its name, often empty.
    pub name: String,
    /// The user who loaded it.
    pub uid: u32,
    /// It is attached by a link, which only its holder can change.
    pub linked: bool,
    /// It is this filter's own.
    pub ours: bool,
}

/// A cgroup and the programs on just it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Its path below the mount, `/` for the root.
    pub cgroup: String,
    /// Its programs, in order.
    pub programs: Vec<Program>,
}

/// The container's cgroup (first) and all above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// The container's own first, the root last.
    pub levels: Vec<Level>,
    /// Who runs the container, if known.
    pub runtime: Option<Runtime>,
}

/// A unit that holds the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// How many levels above the container's cgroup it is; 0: it is the container's.
    pub up: usize,
    /// Its name, `libpod-x.scope`.
    pub name: String,
}

/// Who owns a program that we displace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The container's runtime.
    Runtime,
    /// systemd, for the container's unit.
    Systemd,
}

/// A program that has to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Displace {
    /// Levels above the container's.
    pub up: usize,
    /// The program.
    pub program: u32,
    /// Whose it is.
    pub owner: Owner,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Levels above the container's where our program is to be, the container's own (0) always.
    pub ours: Vec<usize>,
    /// What has to go.
    pub displace: Vec<Displace>,
    /// The unit whose device rules systemd is to drop.
    pub unit: Option<Unit>,
    /// Something confined the container before; else its seed is everything.
    pub confined: bool,
}

/// Why a container's filter cannot be taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// systemd filters a slice, or another unit above the container's.
    #[error(
        "systemd's device rules of {unit}, above the container's cgroup, decide for it as well; loosen them with `systemctl set-property {unit} DevicePolicy=auto DeviceAllow=`, or move the container to another slice"
    )]
    Above {
        /// The unit.
        unit: String,
    },
    /// A program of nobody's.
    #[error(
        "{owner} on the cgroup {cgroup} decides for the container as well, and is not the container runtime's; {remedy}"
    )]
    Stranger {
        /// Who, as far as the kernel tells.
        owner: Stranger,
        /// Where.
        cgroup: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// What is known of a program's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    id: u32,
    name: String,
    uid: u32,
    linked: bool,
}

impl From<&Program> for Stranger {
    fn from(program: &Program) -> Self {
        Self {
            id: program.id,
            name: program.name.clone(),
            uid: program.uid,
            linked: program.linked,
        }
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device program {}", self.id)?;
        if !self.name.is_empty() {
            write!(f, " `{}`", self.name)?;
        }
        write!(f, " of user {}", self.uid)?;
        if self.linked {
            f.write_str(", held by a link,")?;
        }
        Ok(())
    }
}

/// The innermost scope or service that `cgroup` is or lies in.
pub fn unit(cgroup: &str) -> Option<Unit> {
    cgroup
        .rsplit('/')
        .enumerate()
        .find(|(_, name)| is_unit(name))
        .map(|(up, name)| Unit {
            up,
            name: name.into(),
        })
}

/// Scopes and services. A cgroup of a slice's name holds other units besides.
fn is_unit(name: &str) -> bool {
    let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix);
    matches!(suffix, Some("scope" | "service"))
}

/// Whether the unit at `cgroup` is kept by a user's systemd, which the system's knows nothing of.
fn is_users(cgroup: &str) -> bool {
    let mut parts = cgroup.rsplit('/').skip_while(|name| !is_unit(name)).skip(1);
    parts.any(|name| name.starts_with("user@") && is_unit(name))
}

/// What to do so that our program alone decides for the container.
pub fn decide(situation: &Situation) -> Result<Plan, Refusal> {
    let own = situation
        .levels
        .first()
        .map_or("/", |level| level.cgroup.as_str());
    let unit = unit(own).filter(|_| !is_users(own));
    // Beyond the unit's cgroup nothing is the container's. Without a unit, only its own cgroup is.
    let reach = unit.as_ref().map_or(0, |unit| unit.up);
    let mut plan = Plan {
        ours: vec![0],
        displace: Vec::new(),
        unit: None,
        confined: false,
    };
    for (up, level) in situation.levels.iter().enumerate() {
        for program in level.programs.iter().filter(|program| !program.ours) {
            plan.confined = true;
            let owner = owner(program, up, reach, unit.as_ref(), situation.runtime)
                .ok_or_else(|| refusal(program, level, up > reach, situation.runtime.is_some()))?;
            if !plan.ours.contains(&up) {
                plan.ours.push(up);
            }
            plan.displace.push(Displace {
                up,
                program: program.id,
                owner,
            });
            if owner == Owner::Systemd {
                plan.unit.clone_from(&unit);
            }
        }
        plan.confined |= level.programs.iter().any(|program| program.ours);
    }
    Ok(plan)
}

fn owner(
    program: &Program,
    up: usize,
    reach: usize,
    unit: Option<&Unit>,
    runtime: Option<Runtime>,
) -> Option<Owner> {
    if program.linked || up > reach {
        None
    } else if program.name == SYSTEMD_NAME {
        // Without a runtime nobody could tell what to seed ours with.
        runtime
            .and(unit.filter(|unit| unit.up == up))
            .map(|_| Owner::Systemd)
    } else if program.name.is_empty() || program.name == "runc_devices" {
        // Runtimes do not name their programs; another tool's in the container's own cgroup would be a surprise.
        runtime.map(|_| Owner::Runtime)
    } else {
        None
    }
}

fn refusal(program: &Program, level: &Level, above: bool, runtime_is_known: bool) -> Refusal {
    let name = level.cgroup.rsplit('/').next().unwrap_or_default();
    if above && program.name == SYSTEMD_NAME && name.contains('.') {
        return Refusal::Above { unit: name.into() };
    }
    Refusal::Stranger {
        owner: program.into(),
        cgroup: level.cgroup.clone(),
        remedy: if program.linked {
            "end whatever holds the link, or give the device where that program is configured"
        } else if program.name == SYSTEMD_NAME && is_users(&level.cgroup) {
            "it is a user's systemd's, which devbroker cannot tell; give the device in that unit"
        } else if !runtime_is_known {
            "no state of crun or runc names this container, so its own rules are unknown; give the device where it was started"
        } else {
            "remove it, or give the device where it is configured"
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(text: &str) -> Program {
        // id, name or -, flags
        let mut words = text.split(' ');
        let id = words.next().unwrap().parse().unwrap();
        let name = words.next().unwrap();
        let flags = words.next().unwrap_or_default();
        Program {
            id,
            name: if name == "-" { String::new() } else { name.into() },
            uid: 0,
            linked: flags.contains('l'),
            ours: flags.contains('o'),
        }
    }

    /// `/a/b/c: program; program | /a/b: ...`, the levels left out have none.
    fn situation(cgroup: &str, runtime: Option<Runtime>, programs: &[(&str, &[&str])]) -> Situation {
        let levels = std::iter::successors(Some(cgroup), |path| {
            path.rsplit_once('/')
                .map(|(above, _)| above)
                .filter(|_| !path.is_empty())
        })
        .map(|path| {
            let path = if path.is_empty() { "/" } else { path };
            Level {
                cgroup: path.into(),
                programs: programs
                    .iter()
                    .filter(|(at, _)| *at == path)
                    .flat_map(|(_, programs)| programs.iter().map(|text| program(text)))
                    .collect(),
            }
        })
        .collect();
        Situation { levels, runtime }
    }

    fn displace(up: usize, program: u32, owner: Owner) -> Displace {
        Displace { up, program, owner }
    }

    const CRUN: &str = "/machine.slice/libpod-ab.scope/container";
    const SCOPE: &str = "/machine.slice/libpod-ab.scope";

    #[test]
    fn what_is_taken_over() {
        let scope = |up| {
            Some(Unit {
                up,
                name: "libpod-ab.scope".into(),
            })
        };
        // crun: its own program on its sub-cgroup, systemd's on the scope.
        assert_eq!(
            decide(&situation(
                CRUN,
                Some(Runtime::Crun),
                &[(CRUN, &["7 -"]), (SCOPE, &["8 sd_devices"])]
            )),
            Ok(Plan {
                ours: vec![0, 1],
                displace: vec![displace(0, 7, Owner::Runtime), displace(1, 8, Owner::Systemd)],
                unit: scope(1),
                confined: true,
            })
        );
        // runc: both on the scope, one of them twice over.
        assert_eq!(
            decide(&situation(
                SCOPE,
                Some(Runtime::Runc),
                &[(SCOPE, &["8 sd_devices", "7 -", "9 -"])]
            )),
            Ok(Plan {
                ours: vec![0],
                displace: vec![
                    displace(0, 8, Owner::Systemd),
                    displace(0, 7, Owner::Runtime),
                    displace(0, 9, Owner::Runtime),
                ],
                unit: scope(0),
                confined: true,
            })
        );
        // Without systemd.
        assert_eq!(
            decide(&situation("/x/y", Some(Runtime::Crun), &[("/x/y", &["7 -"])])),
            Ok(Plan {
                ours: vec![0],
                displace: vec![displace(0, 7, Owner::Runtime)],
                unit: None,
                confined: true,
            })
        );
        // Already ours.
        assert_eq!(
            decide(&situation(
                CRUN,
                None,
                &[(CRUN, &["7 devbroker o"]), (SCOPE, &["7 devbroker o"])]
            )),
            Ok(Plan {
                ours: vec![0],
                displace: vec![],
                unit: None,
                confined: true,
            })
        );
        // Nothing at all: LXC without privileges, for one.
        assert_eq!(
            decide(&situation("/lxc.payload.x", None, &[])),
            Ok(Plan {
                ours: vec![0],
                displace: vec![],
                unit: None,
                confined: false,
            })
        );
    }

    #[test]
    fn what_is_refused() {
        for (cgroup, runtime, programs, expected) in [
            (
                CRUN,
                Some(Runtime::Crun),
                ("/machine.slice", "9 sd_devices"),
                "systemd's device rules of machine.slice, above the container's cgroup, decide for it as well; loosen them with `systemctl set-property machine.slice DevicePolicy=auto DeviceAllow=`, or move the container to another slice",
            ),
            (
                CRUN,
                Some(Runtime::Crun),
                (CRUN, "9 cilium_dev"),
                "device program 9 `cilium_dev` of user 0 on the cgroup /machine.slice/libpod-ab.scope/container decides for the container as well, and is not the container runtime's; remove it, or give the device where it is configured",
            ),
            (
                CRUN,
                Some(Runtime::Crun),
                (CRUN, "9 - l"),
                "device program 9 of user 0, held by a link, on the cgroup /machine.slice/libpod-ab.scope/container decides for the container as well, and is not the container runtime's; end whatever holds the link, or give the device where that program is configured",
            ),
            (
                CRUN,
                None,
                (CRUN, "9 -"),
                "device program 9 of user 0 on the cgroup /machine.slice/libpod-ab.scope/container decides for the container as well, and is not the container runtime's; no state of crun or runc names this container, so its own rules are unknown; give the device where it was started",
            ),
            (
                SCOPE,
                None,
                (SCOPE, "9 sd_devices"),
                "device program 9 `sd_devices` of user 0 on the cgroup /machine.slice/libpod-ab.scope decides for the container as well, and is not the container runtime's; no state of crun or runc names this container, so its own rules are unknown; give the device where it was started",
            ),
            // Ancestors without a unit between, and the root, are not the container's.
            (
                "/x/y",
                Some(Runtime::Crun),
                ("/x", "9 -"),
                "device program 9 of user 0 on the cgroup /x decides for the container as well, and is not the container runtime's; remove it, or give the device where it is configured",
            ),
            (
                CRUN,
                Some(Runtime::Crun),
                ("/", "9 -"),
                "device program 9 of user 0 on the cgroup / decides for the container as well, and is not the container runtime's; remove it, or give the device where it is configured",
            ),
            // A user's own systemd cannot be told by us.
            (
                "/user.slice/user-7.slice/user@7.service/app.slice/a.scope",
                Some(Runtime::Crun),
                (
                    "/user.slice/user-7.slice/user@7.service/app.slice/a.scope",
                    "9 sd_devices",
                ),
                "device program 9 `sd_devices` of user 0 on the cgroup /user.slice/user-7.slice/user@7.service/app.slice/a.scope decides for the container as well, and is not the container runtime's; it is a user's systemd's, which devbroker cannot tell; give the device in that unit",
            ),
        ] {
            let refusal = decide(&situation(cgroup, runtime, &[(programs.0, &[programs.1])])).unwrap_err();
            assert_eq!(refusal.to_string(), expected);
        }
    }

    #[test]
    fn units() {
        for (cgroup, expected) in [
            (CRUN, Some((1, "libpod-ab.scope"))),
            (SCOPE, Some((0, "libpod-ab.scope"))),
            ("/system.slice/foo.service/payload/x", Some((2, "foo.service"))),
            ("/system.slice", None),
            ("/lxc.payload.x", None),
            ("/", None),
        ] {
            assert_eq!(
                unit(cgroup),
                expected.map(|(up, name)| Unit {
                    up,
                    name: name.into()
                }),
                "{cgroup}"
            );
        }
        assert!(is_users(
            "/user.slice/user-7.slice/user@7.service/app.slice/a.scope/container"
        ));
        assert!(!is_users("/user.slice/user-7.slice/user@7.service/payload"));
    }
}

//! Random histories against a model: whatever is plugged, unplugged, crashed or done by a hostile container, one plan
//! brings the container to what it was granted, a second one finds nothing to do, and what is not ours is untouched.

use super::fake::Fake;
use super::*;
use crate::model::Permissions;
use proptest::prelude::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// Device `n` comes, with one of few numbers, so that numbers are reused.
    Plug { device: u8, minor: u32 },
    /// Device `n` goes.
    Unplug { device: u8 },
    /// The grant's permissions change.
    Regrant { mode: u16 },
    /// The container's root puts something of its own at a path.
    Occupy { path: u8, what: Found },
    /// It removes whatever is at a path.
    Remove { path: u8 },
    /// It hides a node of ours under another name.
    Hide { path: u8 },
    /// The broker applies this many actions, tears the next and dies.
    Crash { after: usize, torn: bool },
    /// The broker works to the end.
    Settle,
}

fn path(n: u8) -> NodePath {
    format!("tty/USB{}", n % 4).parse().unwrap()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let what = prop_oneof![
        Just(Found::Other),
        Just(Found::Link("/etc/shadow".into())),
        Just(Found::Link("tty/USB0".into())),
        Just(Found::Node {
            ino: 9_000_000,
            devnum: DevNum::char(188, 0)
        }),
    ];
    let step = prop_oneof![
        4 => (0u8..4, 0u32..3).prop_map(|(device, minor)| Step::Plug { device, minor }),
        3 => (0u8..4).prop_map(|device| Step::Unplug { device }),
        1 => prop_oneof![Just(0o600u16), Just(0o660)].prop_map(|mode| Step::Regrant { mode }),
        1 => (0u8..6, what).prop_map(|(path, what)| Step::Occupy { path, what }),
        1 => (0u8..6).prop_map(|path| Step::Remove { path }),
        1 => (0u8..4).prop_map(|path| Step::Hide { path }),
        2 => (0usize..6, any::<bool>()).prop_map(|(after, torn)| Step::Crash { after, torn }),
        3 => Just(Step::Settle),
    ];
    proptest::collection::vec(step, 1..40)
}

#[derive(Debug, Default)]
struct Model {
    fake: Fake,
    present: BTreeMap<u8, (u32, u64)>,
    stays: u64,
    mode: u16,
}

impl Model {
    fn desired(&self) -> Desired {
        let wants: Vec<Want> = self
            .present
            .iter()
            .map(|(device, (minor, stay))| {
                Want::for_test(
                    &format!("alias{device}"),
                    "tty@if00",
                    &format!("/devices/usb1/1-{device}/tty"),
                    *stay,
                    DevNum::char(188, *minor),
                    path(u8::try_from(*minor).unwrap()),
                    vec![format!("devbroker/alias{device}").parse().unwrap()],
                )
            })
            .collect();
        let grant = GrantPermissions {
            mode: Some(self.mode),
            ..GrantPermissions::default()
        };
        let permissions = Permissions {
            uid: 0,
            gid: 0,
            mode: self.mode,
            acl: crate::model::Acl::default(),
        };
        desire(&wants, |_| (permissions.clone(), grant)).0
    }

    fn plan(&self) -> Plan {
        let desired = self.desired();
        plan(&desired, &self.fake.observe(&desired), &self.fake.ledger)
    }

    fn container_path(n: u8) -> NodePath {
        if n < 4 {
            path(n)
        } else {
            format!("devbroker/alias{}", n - 4).parse().unwrap()
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Plug { device, minor } => {
                // The kernel gives a number to one device at a time.
                if !self.present.contains_key(device) && self.present.values().all(|(held, _)| held != minor)
                {
                    self.stays += 1;
                    self.present.insert(*device, (*minor, self.stays));
                }
            }
            Step::Unplug { device } => {
                self.present.remove(device);
            }
            Step::Regrant { mode } => self.mode = *mode,
            Step::Occupy { path, what } => {
                self.fake
                    .files
                    .entry(Self::container_path(*path))
                    .or_insert_with(|| what.clone());
            }
            Step::Remove { path } => {
                self.fake.files.remove(&Self::container_path(*path));
            }
            Step::Hide { path } => {
                if let Some(Found::Node { ino, .. }) = self.fake.files.remove(&Self::container_path(*path)) {
                    self.fake.hidden.insert(ino);
                }
            }
            Step::Crash { after, torn } => {
                let plan = self.plan();
                for action in plan.actions.iter().take(*after) {
                    self.fake.apply(action, false);
                }
                if let Some(action) = plan.actions.get(*after).filter(|_| *torn) {
                    self.fake.apply(action, true);
                }
            }
            Step::Settle => self.settle(),
        }
    }

    fn settle(&mut self) {
        let foreign = self.fake.foreign();
        let first = self.plan();
        let revocations_end = first
            .actions
            .iter()
            .rposition(|a| matches!(a, Action::Revoke { .. }));
        let others_begin = first
            .actions
            .iter()
            .position(|a| !matches!(a, Action::Revoke { .. }));
        if let (Some(last), Some(other)) = (revocations_end, others_begin) {
            assert!(last < other, "something comes before a revocation: {first:?}");
        }
        for action in &first.actions {
            self.fake.apply(action, false);
        }
        let desired = self.desired();
        let allowed: BTreeMap<_, _> = desired
            .access
            .iter()
            .map(|(num, want)| (*num, want.access))
            .collect();
        assert_eq!(self.fake.access, allowed, "access is not what was granted");
        let second = self.plan();
        assert_eq!(second.actions, [], "planning after applying yields work");
        assert_eq!(second.blocked, first.blocked);
        for (path, found) in foreign {
            assert_eq!(self.fake.files.get(&path), Some(&found), "{path} was not ours");
        }
        for (path, want) in &desired.nodes {
            let there = matches!(self.fake.files.get(path), Some(Found::Node { devnum, .. }) if *devnum == want.devnum);
            let blocked = second.blocked.iter().any(|blocked| blocked.path == *path);
            assert!(there || blocked, "{path} is missing");
        }
        let ours: BTreeSet<u64> = self.fake.ledger.nodes.values().map(|node| node.ino).collect();
        assert_eq!(
            self.fake
                .hidden
                .difference(&self.fake.dead)
                .filter(|ino| **ino < 9_000_000)
                .count(),
            0
        );
        assert!(ours.is_disjoint(&self.fake.dead));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_history_ends_right(steps in steps()) {
        let mut model = Model::default();
        for step in &steps {
            model.step(step);
        }
        model.settle();
    }
}

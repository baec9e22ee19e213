//! The whole chain from an event to what is in containers, against a model of kernel, udev and containers: whatever is
//! plugged and unplugged, told late, twice or in another order, lost, reconfigured, started, stopped or killed in between,
//! the end is what the configuration says of the devices that are there, and nobody's files are touched.
//!
//! `world` is the model of kernel and udev, `setting` says what must come of a configuration, `broker` does what
//! `daemon::run` and `daemon::state` do, with the same [`super::host_state`], `policy` and `plan`, around the containers in
//! memory of [`crate::plan::fake`]. Turning what is known into effects on a real kernel is for `tests/root_*` and the
//! scenarios.

mod broker;
mod histories;
mod setting;
mod world;

use crate::model::{ContainerRef, NodePath};
use crate::plan::Found;
use crate::plan::fake::Fake;
use broker::{Between, Broker, Died, Disk};
use proptest::prelude::*;
use setting::{ALIASES, CONTAINERS, Setting};
use std::collections::BTreeSet;
use world::{Socket, World};

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Plug {
        socket: Socket,
        stick: u8,
    },
    Unplug {
        socket: Socket,
    },
    /// Out and in again at once, in the same socket or another: numbers are reused, events overlap.
    Replug {
        socket: Socket,
        into: Socket,
    },
    Change {
        socket: Socket,
    },
    /// udev works off an event.
    Work {
        pick: usize,
        hook: bool,
    },
    /// The broker reads what udev told, or the hook; meanwhile something may be pulled.
    Hear {
        hook: bool,
        overtaken: Option<Socket>,
    },
    /// It reads the kernel's removals.
    HearKernel,
    /// A receive buffer is full while something is replugged.
    Overflow {
        kernel: bool,
        socket: Socket,
    },
    Start {
        container: usize,
    },
    Stop {
        container: usize,
    },
    Define {
        aliases: u8,
    },
    Grant {
        alias: usize,
        container: usize,
        write: Option<bool>,
    },
    /// Something happens after so many actions of the broker.
    Cut {
        after: usize,
        what: Between,
    },
    /// The container's root makes something of its own, or removes what is there.
    Meddle {
        container: usize,
        path: u8,
        make: bool,
    },
    /// The broker is down while udev works off some events.
    Down {
        lost: usize,
    },
    Up,
}

fn socket() -> impl Strategy<Value = Socket> {
    proptest::sample::select(Socket::ALL.to_vec())
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        any::<bool>().prop_map(|torn| Between::Crash { torn }),
        (socket(), socket(), 0u8..4).prop_map(|(out, into, stick)| Between::Replug { out, into, stick }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (socket(), 0u8..4).prop_map(|(socket, stick)| Step::Plug { socket, stick }),
        3 => socket().prop_map(|socket| Step::Unplug { socket }),
        3 => (socket(), socket()).prop_map(|(socket, into)| Step::Replug { socket, into }),
        1 => socket().prop_map(|socket| Step::Change { socket }),
        8 => (0usize..4, any::<bool>()).prop_map(|(pick, hook)| Step::Work { pick, hook }),
        8 => (any::<bool>(), proptest::option::weighted(0.2, socket()))
            .prop_map(|(hook, overtaken)| Step::Hear { hook, overtaken }),
        2 => Just(Step::HearKernel),
        2 => (any::<bool>(), socket()).prop_map(|(kernel, socket)| Step::Overflow { kernel, socket }),
        1 => (0usize..2).prop_map(|container| Step::Start { container }),
        1 => (0usize..2).prop_map(|container| Step::Stop { container }),
        1 => any::<u8>().prop_map(|aliases| Step::Define { aliases }),
        3 => (0..ALIASES.len(), 0usize..3, proptest::option::weighted(0.7, any::<bool>()))
            .prop_map(|(alias, container, write)| Step::Grant { alias, container, write }),
        3 => (0usize..8, between()).prop_map(|(after, what)| Step::Cut { after, what }),
        1 => (0usize..2, 0u8..6, any::<bool>())
            .prop_map(|(container, path, make)| Step::Meddle { container, path, make }),
        1 => (0usize..6).prop_map(|lost| Step::Down { lost }),
        1 => Just(Step::Up),
    ];
    proptest::collection::vec(step, 1..60)
}

struct Model {
    world: World,
    disk: Disk,
    setting: Setting,
    broker: Option<Broker>,
    cut: Option<(usize, Between)>,
    /// Containers whose root did something of its own. The broker is not told of it.
    meddled: BTreeSet<ContainerRef>,
}

fn container(at: usize) -> ContainerRef {
    CONTAINERS[at].parse().unwrap()
}

impl Model {
    /// All aliases are granted to the first container, which runs, and half of them to the other.
    fn new() -> Self {
        let mut model = Self {
            world: World::default(),
            disk: Disk::default(),
            setting: Setting {
                defined: 0x7f,
                grants: (0..ALIASES.len())
                    .flat_map(|alias| [((alias, alias % 2), true), ((alias, 0), true)])
                    .collect(),
            },
            broker: None,
            cut: None,
            meddled: BTreeSet::new(),
        };
        model.disk.config = model.setting.config();
        model.disk.containers.insert(container(0), Fake::default());
        model.broker = Some(Broker::start(&mut model.world, &mut model.disk));
        model
    }

    fn up(&mut self) -> &mut Broker {
        if self.broker.is_none() {
            self.world.hang_up();
            self.broker = Some(Broker::start(&mut self.world, &mut self.disk));
        }
        self.broker.as_mut().unwrap()
    }

    fn reconfigure(&mut self) {
        let config = self.setting.config();
        match &mut self.broker {
            Some(broker) => broker.configure(config, &mut self.disk),
            None => self.disk.config = config,
        }
        self.settle();
    }

    /// As the daemon does after each turn of its loop.
    fn settle(&mut self) {
        if let Some(broker) = &mut self.broker {
            if let Err(Died) = broker.settle(&mut self.cut, &mut self.world, &mut self.disk) {
                self.broker = None;
            }
        }
    }

    /// The broker reads the next message of one of its sockets, the kernel's first.
    fn hear(&mut self, hook: bool, overtaken: Option<Socket>) {
        let Some(broker) = &mut self.broker else { return };
        broker.removals(&mut self.world, &mut self.disk);
        let event = if hook {
            self.world.hook.pop_front()
        } else if std::mem::take(&mut self.world.monitor_overflowed) {
            // The kernel says so before what it kept.
            Some(crate::host::event::HostEvent::Lost)
        } else {
            self.world.monitor.pop_front()
        };
        if let Some(event) = event {
            broker.take(event, overtaken, &mut self.world, &mut self.disk);
        }
        self.settle();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Plug { socket, stick } => self.world.plug(*socket, *stick),
            Step::Unplug { socket } => self.world.unplug(*socket),
            Step::Replug { socket, into } => self.replug(*socket, *into),
            Step::Change { socket } => self.world.change(*socket),
            Step::Work { pick, hook } => self.world.work(*pick, *hook),
            Step::Hear { hook, overtaken } => self.hear(*hook, *overtaken),
            Step::HearKernel => {
                if let Some(broker) = &mut self.broker {
                    broker.removals(&mut self.world, &mut self.disk);
                }
                self.settle();
            }
            Step::Overflow { kernel, socket } => {
                let full = if *kernel {
                    &mut self.world.kernel_overflowed
                } else {
                    &mut self.world.monitor_overflowed
                };
                *full = true;
                self.replug(*socket, *socket);
            }
            Step::Start { container: at } => {
                let container = container(*at);
                self.disk.containers.entry(container.clone()).or_default();
                if let Some(broker) = &mut self.broker {
                    broker.adopt(&container, &self.disk);
                }
                self.settle();
            }
            Step::Stop { container: at } => {
                self.disk.containers.remove(&container(*at));
                if let Some(broker) = &mut self.broker {
                    broker.release(&container(*at));
                }
            }
            Step::Define { aliases } => {
                self.setting.defined = *aliases & 0x7f;
                self.reconfigure();
            }
            Step::Grant {
                alias,
                container,
                write,
            } => {
                match write {
                    Some(write) => self.setting.grants.insert((*alias, *container), *write),
                    None => self.setting.grants.remove(&(*alias, *container)),
                };
                self.reconfigure();
            }
            Step::Cut { after, what } => self.cut = Some((*after, *what)),
            Step::Meddle {
                container: at,
                path,
                make,
            } => self.meddle(*at, *path, *make),
            Step::Down { lost } => {
                self.broker = None;
                for _ in 0..*lost {
                    self.world.work(0, false);
                }
            }
            Step::Up => {
                self.up();
            }
        }
        if let Some(broker) = &self.broker {
            broker.check_no_stranger(&self.world, &self.disk);
        }
    }

    fn replug(&mut self, socket: Socket, into: Socket) {
        let stick = self.world.plugged.get(&socket).and_then(|present| present.stick);
        self.world.unplug(socket);
        self.world.plug(into, stick.unwrap_or(0));
    }

    fn meddle(&mut self, at: usize, path: u8, make: bool) {
        let Some(fake) = self.disk.containers.get_mut(&container(at)) else {
            return;
        };
        self.meddled.insert(container(at));
        let path: NodePath = match path {
            0..4 => format!("ttyUSB{path}"),
            4 => "devbroker/s0".into(),
            _ => "my/two".into(),
        }
        .parse()
        .unwrap();
        if make {
            fake.files
                .entry(path)
                .or_insert(Found::Link("/etc/shadow".into()));
        } else {
            fake.files.remove(&path);
        }
    }

    /// Everything is told and heard, and nothing more happens.
    fn rest(&mut self) {
        self.cut = None;
        self.up();
        for container in std::mem::take(&mut self.meddled) {
            if self.disk.containers.contains_key(&container) {
                self.broker.as_mut().unwrap().adopt(&container, &self.disk);
            }
        }
        for turn in 0.. {
            assert!(turn < 100, "it never comes to rest");
            while !self.world.udev.is_empty() {
                self.world.work(0, false);
            }
            while !self.world.monitor.is_empty() || self.world.monitor_overflowed {
                self.hear(false, None);
            }
            while !self.world.hook.is_empty() {
                self.hear(true, None);
            }
            let broker = self.up();
            broker.retry();
            self.hear(false, None);
            // What is blocked is tried again for ever.
            let broker = self.up();
            if turn > 3 || broker.is_settled() {
                break;
            }
        }
        let broker = self.broker.as_ref().unwrap();
        broker.check(&self.setting, &self.world, &self.disk);
        broker.check_no_stranger(&self.world, &self.disk);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_history_ends_as_the_configuration_says(steps in steps()) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
        model.rest();
    }
}

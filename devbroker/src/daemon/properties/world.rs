//! The kernel and udev: what is plugged in, who has which number, and what is told about it, in which order.

use crate::host::event::{Action, Changed, HostEvent, Properties, Removed, Source};
use crate::model::{DevNum, HostNode, Incarnation, SysPath};
use crate::policy::tests::Usb;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A socket: `Hub` takes the hub alone, `BehindOne` and `BehindTwo` are there while it is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Socket {
    One,
    Two,
    Hub,
    BehindOne,
    BehindTwo,
}

impl Socket {
    pub(super) const ALL: [Self; 5] = [Self::One, Self::Two, Self::Hub, Self::BehindOne, Self::BehindTwo];

    pub(super) const fn is_behind_hub(self) -> bool {
        matches!(self, Self::BehindOne | Self::BehindTwo)
    }

    /// Its chain of ports.
    const fn port(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
            Self::Hub => "3",
            Self::BehindOne => "3.1",
            Self::BehindTwo => "3.2",
        }
    }
}

/// One stay of a stick, or of the hub: its own node, and a stick's serial port.
#[derive(Debug, Clone)]
pub(super) struct Present {
    /// Which stick; `None` is the hub.
    pub(super) stick: Option<u8>,
    pub(super) usb: HostNode,
    pub(super) tty: Option<HostNode>,
    chain: Usb,
    /// Number of the event that told of it first.
    born: u64,
}

impl Present {
    pub(super) fn nodes(&self) -> impl Iterator<Item = &HostNode> {
        std::iter::once(&self.usb).chain(&self.tty)
    }
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) plugged: BTreeMap<Socket, Present>,
    stays: u64,
    seqnum: u64,
    /// Removals that the kernel has told and nobody has read.
    pub(super) kernel: VecDeque<HostEvent>,
    /// What udev has yet to work off.
    pub(super) udev: VecDeque<HostEvent>,
    /// What it has told and nobody has read.
    pub(super) monitor: VecDeque<HostEvent>,
    /// What its rules have told through the hook and nobody has read.
    pub(super) hook: VecDeque<HostEvent>,
    /// Whether the kernel had to drop messages.
    pub(super) kernel_overflowed: bool,
    pub(super) monitor_overflowed: bool,
}

fn syspath(event: &HostEvent) -> &SysPath {
    match event {
        HostEvent::Changed(changed) => &changed.syspath,
        HostEvent::Removed(removed) => &removed.syspath,
        HostEvent::Lost => unreachable!("nobody queues it"),
    }
}

fn via(event: &HostEvent, source: Source) -> HostEvent {
    let mut event = event.clone();
    match &mut event {
        HostEvent::Changed(changed) => changed.from = source,
        HostEvent::Removed(removed) => removed.from = source,
        HostEvent::Lost => {}
    }
    event
}

impl World {
    /// Plugs a stick, or the hub, in. A stick is one thing: it is in one socket.
    pub(super) fn plug(&mut self, socket: Socket, stick: u8) {
        let stick = (socket != Socket::Hub).then_some(stick);
        let hub = self.plugged.get(&Socket::Hub);
        let taken = self.plugged.contains_key(&socket)
            || self.plugged.values().any(|present| present.stick == stick)
            || socket.is_behind_hub() && hub.is_none();
        if taken {
            return;
        }
        self.stays += 1;
        let (name, port) = (format!("1-{}", socket.port()), socket.port());
        let ids = match stick {
            None => "2109:2817".to_owned(),
            Some(3) => "1a86:7523".to_owned(),
            Some(stick) => format!("0403:6001:S{stick}"),
        };
        let mut chain = match hub.filter(|_| socket.is_behind_hub()) {
            Some(hub) => hub.chain.behind(&name, self.stays, port, &ids),
            None => Usb::at(&name, self.stays, port, &ids),
        };
        if stick.is_none() {
            chain = chain.hub();
        }
        // The kernel gives the lowest number that is free.
        let number = |major| {
            let taken: BTreeSet<u32> = self
                .nodes()
                .filter(|node| node.devnum.major == major)
                .map(|node| node.devnum.minor)
                .collect();
            (0..256).find(|minor| !taken.contains(minor)).unwrap()
        };
        let usb = chain.node(number(189));
        let tty = stick.map(|_| {
            let minor = number(188);
            let kernel = format!("ttyUSB{minor}");
            let mut tty = chain.class("00", &format!("{kernel}/tty/{kernel}"), "tty", "ftdi_sio");
            tty.devnum = DevNum::char(188, minor);
            tty
        });
        let present = Present {
            stick,
            usb,
            tty,
            chain,
            born: self.seqnum + 1,
        };
        let nodes: Vec<HostNode> = present.nodes().cloned().collect();
        self.plugged.insert(socket, present);
        for action in [Action::Add, Action::Bind] {
            for node in &nodes {
                self.tell(node, action);
            }
        }
    }

    /// Pulls what is in a socket, and with the hub all behind it.
    pub(super) fn unplug(&mut self, socket: Socket) {
        if socket == Socket::Hub {
            self.unplug(Socket::BehindOne);
            self.unplug(Socket::BehindTwo);
        }
        let Some(present) = self.plugged.remove(&socket) else {
            return;
        };
        // From the leaves up.
        for node in present.tty.iter().chain([&present.usb]) {
            self.seqnum += 1;
            let removed = |from| {
                HostEvent::Removed(Removed {
                    syspath: node.syspath().clone(),
                    seqnum: self.seqnum,
                    devnum: node.devnum,
                    from,
                })
            };
            if !self.kernel_overflowed {
                self.kernel.push_back(removed(Source::Kernel));
            }
            self.udev.push_back(removed(Source::Udev));
        }
    }

    /// A rule gives a stick's serial port a link, or takes it away again.
    pub(super) fn change(&mut self, socket: Socket) {
        if let Some(present) = self.plugged.get_mut(&socket) {
            if let (Some(stick), Some(tty)) = (present.stick, &mut present.tty) {
                tty.links = if tty.links.is_empty() {
                    vec![format!("link-of-S{stick}").parse().unwrap()]
                } else {
                    vec![]
                };
            }
            let nodes: Vec<HostNode> = present.nodes().cloned().collect();
            for node in &nodes {
                self.tell(node, Action::Change);
            }
        }
    }

    fn tell(&mut self, node: &HostNode, action: Action) {
        self.seqnum += 1;
        self.udev.push_back(HostEvent::Changed(Changed {
            syspath: node.syspath().clone(),
            seqnum: self.seqnum,
            action,
            devnum: node.devnum,
            properties: Properties::new(),
            from: Source::Udev,
        }));
    }

    /// udev works off one of its events, the `pick`th of those that have to wait for no other: events of one device, and of
    /// what is above and below it, stay in order. With `hook`, a rule runs the hook as well.
    pub(super) fn work(&mut self, pick: usize, hook: bool) {
        let free: Vec<usize> = (0..self.udev.len())
            .filter(|at| {
                let this = syspath(&self.udev[*at]);
                self.udev.iter().take(*at).all(|before| {
                    let before = syspath(before);
                    !this.is_within(before) && !before.is_within(this)
                })
            })
            .collect();
        if free.is_empty() {
            return;
        }
        let event = self.udev.remove(free[pick % free.len()]).unwrap();
        if hook {
            self.hook.push_back(via(&event, Source::Hook));
        }
        if !self.monitor_overflowed {
            self.monitor.push_back(event);
        }
    }

    /// Every node that is there.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &HostNode> {
        self.plugged.values().flat_map(Present::nodes)
    }

    /// Which stay is at a place.
    pub(super) fn stay(&self, syspath: &SysPath) -> Option<Incarnation> {
        self.nodes()
            .find(|node| node.syspath() == syspath)
            .map(HostNode::incarnation)
    }

    /// What the reader of sysfs makes of an event. Events up to `scanned` are taken only if they speak of this stay.
    pub(super) fn read(&self, changed: &Changed, scanned: u64) -> Option<HostNode> {
        let present = self
            .plugged
            .values()
            .find(|present| present.nodes().any(|node| node.syspath() == &changed.syspath))?;
        let node = present.nodes().find(|node| node.syspath() == &changed.syspath)?;
        let speaks_of = changed.seqnum > scanned || changed.seqnum >= present.born;
        (node.devnum == changed.devnum && speaks_of).then(|| node.clone())
    }

    /// What a scan finds: nodes, those that udev is not through with as sysfs alone has them, and the number of the last event.
    pub(super) fn scan(&self) -> (Vec<HostNode>, Vec<HostNode>, u64) {
        let waiting: BTreeSet<&SysPath> = self.udev.iter().map(syspath).collect();
        let (mut pending, nodes): (Vec<_>, Vec<_>) = self
            .nodes()
            .cloned()
            .partition(|node| waiting.contains(node.syspath()));
        for node in &mut pending {
            node.links.clear();
        }
        (nodes, pending, self.seqnum)
    }

    /// Nobody listens any more: what was told and not read is lost.
    pub(super) fn hang_up(&mut self) {
        self.kernel.clear();
        self.monitor.clear();
        self.hook.clear();
        self.kernel_overflowed = false;
        self.monitor_overflowed = false;
    }
}

//! Single histories: those in which the script of 2008 went wrong, and those in which an earlier version did.

use super::world::Socket;
use super::{Model, Step, container};
use crate::model::{DevNum, NodePath};
use std::collections::BTreeSet;

/// Sticks with a serial number, in these sockets.
const STICKS: [(Socket, u8); 2] = [(Socket::One, 0), (Socket::Two, 1)];

impl Model {
    fn nodes(&self) -> BTreeSet<NodePath> {
        let fake = &self.disk.containers[&container(0)];
        fake.ledger
            .nodes
            .keys()
            .filter(|path| fake.files.contains_key(path))
            .cloned()
            .collect()
    }
}

fn paths(paths: &[&str]) -> BTreeSet<NodePath> {
    paths.iter().map(|path| path.parse().unwrap()).collect()
}

#[test]
fn all_nodes_of_a_device_come_and_go_with_it() {
    let mut model = Model::new();
    model.step(&Step::Plug {
        socket: Socket::One,
        stick: 0,
    });
    model.rest();
    assert_eq!(model.nodes(), paths(&["bus/usb/001/000", "ttyUSB0"]));
    model.step(&Step::Unplug { socket: Socket::One });
    model.rest();
    assert_eq!(model.nodes(), paths(&[]));
}

#[test]
fn a_node_that_was_lost_inside_comes_back_with_the_device() {
    let mut model = Model::new();
    model.step(&Step::Plug {
        socket: Socket::One,
        stick: 0,
    });
    model.rest();
    // The container's root removes the serial port, and the daemon is not told.
    let fake = model.disk.containers.get_mut(&container(0)).unwrap();
    fake.files.remove(&"ttyUSB0".parse().unwrap()).unwrap();
    model.step(&Step::Replug {
        socket: Socket::One,
        into: Socket::One,
    });
    model.rest();
    assert_eq!(model.nodes(), paths(&["bus/usb/001/000", "ttyUSB0"]));
}

#[test]
fn devices_that_are_away_stop_nothing_behind_them() {
    let mut model = Model::new();
    // The last alias of the configuration and of the alphabet; of all others there is no device.
    model.step(&Step::Plug {
        socket: Socket::Two,
        stick: 3,
    });
    model.rest();
    assert_eq!(model.nodes(), paths(&["bus/usb/001/000", "ttyUSB0"]));
}

#[test]
fn the_next_device_with_a_number_is_refused() {
    let mut model = Model::new();
    model.setting.grants.retain(|(alias, _), _| *alias == 0);
    model.reconfigure();
    model.step(&Step::Plug {
        socket: Socket::One,
        stick: 0,
    });
    model.rest();
    let numbers = [DevNum::char(188, 0), DevNum::char(189, 0)];
    let access = |model: &Model| -> Vec<DevNum> {
        model.disk.containers[&container(0)]
            .access
            .keys()
            .copied()
            .collect()
    };
    assert_eq!(access(&model), numbers);
    // The kernel's word alone, ahead of all that udev says of the two.
    model.step(&Step::Unplug { socket: Socket::One });
    model.step(&Step::Plug {
        socket: Socket::Two,
        stick: 3,
    });
    model.step(&Step::HearKernel);
    assert_eq!(access(&model), []);
    model.rest();
    assert_eq!(access(&model), []);
}

#[test]
fn what_is_told_at_once_and_twice_loses_nothing() {
    let mut model = Model::new();
    for (socket, stick) in STICKS {
        model.step(&Step::Plug { socket, stick });
    }
    // udev works on both at a time, and the hook runs for each event.
    for pick in 0..8 {
        model.step(&Step::Work { pick, hook: true });
    }
    for turn in 0..16 {
        model.step(&Step::Hear {
            hook: turn % 3 != 0,
            overtaken: None,
        });
    }
    model.rest();
    let all = paths(&["bus/usb/001/000", "bus/usb/001/001", "ttyUSB0", "ttyUSB1"]);
    assert_eq!(model.nodes(), all);
}

/// Both the kernel's word of a removal and udev's word of the next device at that place are lost; udev's word of the removal
/// comes last, after the scan that found the next device.
#[test]
fn a_removal_that_is_told_late_does_not_take_the_next_stay() {
    let socket = Socket::One;
    let work = || Step::Work { pick: 0, hook: false };
    let hear = || Step::Hear {
        hook: false,
        overtaken: None,
    };
    let mut model = Model::new();
    model.step(&Step::Plug { socket, stick: 0 });
    (0..4).for_each(|_| model.step(&work()));
    (0..4).for_each(|_| model.step(&hear()));
    model.step(&Step::Overflow { kernel: true, socket });
    (0..2).for_each(|_| model.step(&work()));
    model.step(&Step::Overflow {
        kernel: false,
        socket: Socket::Two,
    });
    (0..4).for_each(|_| model.step(&work()));
    model.rest();
    assert_eq!(model.disk.containers[&container(0)].ledger.nodes.len(), 2);
}

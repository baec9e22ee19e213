//! Which nodes belong to an alias, their roles, and who gets them.

use super::{Usb, bare, config, dir, host_node};
use crate::config::Config;
use crate::model::{AliasName, DevNum, HostNode};
use crate::policy::{Anchor, bind, candidates, grants, members, wants};
use std::collections::BTreeMap;

/// All aliases bound over these nodes.
fn bound(config: &Config, nodes: &[HostNode]) -> BTreeMap<AliasName, Anchor> {
    let mut all: BTreeMap<AliasName, Vec<Anchor>> = BTreeMap::new();
    for node in nodes {
        for one in candidates(config, node) {
            all.entry(one.alias).or_default().push(one.anchor);
        }
    }
    all.into_iter()
        .filter_map(|(alias, anchors)| Some((alias, bind(&anchors, None, None, "").bound?)))
        .collect()
}

/// The roles of an alias's nodes with their kernel names, the primary one with a star.
fn roles(config: &Config, alias: &str, nodes: &[HostNode]) -> Vec<String> {
    let alias: AliasName = alias.parse().unwrap();
    let bound = bound(config, nodes);
    let Some(anchor) = bound.get(&alias) else {
        return vec![];
    };
    let primary = config
        .aliases
        .get(&alias)
        .and_then(|alias| alias.primary.as_ref());
    members(&alias, anchor, primary, &bound, nodes)
        .into_iter()
        .map(|one| {
            format!(
                "{}{} {}",
                if one.primary { "*" } else { "" },
                one.role,
                one.node.devname
            )
        })
        .collect()
}

#[test]
fn a_printer() {
    let usb = Usb::at("1-2", 7, "2", "04b8:0005");
    let nodes = [usb.node(5), usb.class("00", "usbmisc/lp0", "usbmisc", "usblp")];
    let text = "[alias.x]\nmatch.vendor = '04b8'";
    assert_eq!(
        roles(&config(text), "x", &nodes),
        ["usb_device bus/usb/001/005", "*usbmisc@if00 lp0"]
    );
    let text = "[alias.x]\nmatch.vendor = '04b8'\nprimary = 'usb_device'";
    assert_eq!(
        roles(&config(text), "x", &nodes),
        ["*usb_device bus/usb/001/005", "usbmisc@if00 lp0"]
    );
}

#[test]
fn four_ports() {
    let usb = Usb::at("1-2", 7, "2", "0403:6011");
    let mut nodes = vec![usb.node(5)];
    for (interface, name) in [
        ("02", "ttyUSB0"),
        ("00", "ttyUSB3"),
        ("03", "ttyUSB1"),
        ("01", "ttyUSB2"),
    ] {
        nodes.push(usb.class(interface, &format!("{name}/tty/{name}"), "tty", "ftdi_sio"));
    }
    assert_eq!(
        roles(&config("[alias.x]\nmatch.vendor = '0403'"), "x", &nodes),
        [
            "*tty@if00 ttyUSB3",
            "tty@if01 ttyUSB2",
            "tty@if02 ttyUSB0",
            "tty@if03 ttyUSB1",
            "usb_device bus/usb/001/005"
        ]
    );
}

#[test]
fn several_ports_on_one_interface() {
    let usb = Usb::at("1-2", 7, "2", "9710:7840");
    let nodes: Vec<HostNode> = [("ttyUSB4", "0"), ("ttyUSB2", "1"), ("ttyUSB3", "2")]
        .into_iter()
        .map(|(name, port)| {
            let mut node = usb.class("00", &format!("{name}/tty/{name}"), "tty", "mos7840");
            let above = node.syspath().parent().unwrap().parent().unwrap();
            let port = dir(above.as_str(), 70, "usb-serial", "", &[("port_number", port)]);
            node.chain.insert(1, port);
            node
        })
        .collect();
    assert_eq!(
        roles(&config("[alias.x]\nmatch.vendor = '9710'"), "x", &nodes),
        ["*tty@if00 ttyUSB4", "tty@if00.1 ttyUSB2", "tty@if00.2 ttyUSB3"]
    );
}

#[test]
fn a_disk() {
    let usb = Usb::at("1-2", 7, "2", "0951:1666");
    let top = usb.class(
        "00",
        "host6/target6:0:0/6:0:0:0/block/sdb",
        "block",
        "usb-storage",
    );
    let scsi = |lun: &str| {
        dir(
            &format!("{}/1-2:1.0/host6/target6:0:0/6:0:0:{lun}", usb.chain[0].syspath),
            71,
            "scsi",
            "scsi_device",
            &[],
        )
    };
    let disk = |name: &str, lun: &str| {
        let path = format!("{}/block/{name}", scsi(lun).syspath);
        let mut chain = vec![dir(&path, 72, "block", "disk", &[]), scsi(lun)];
        chain.extend(top.chain.iter().skip(1).cloned());
        host_node(DevNum::block(8, 16), name, chain)
    };
    let part = |disk: &HostNode, name: &str| {
        let path = format!("{}/{name}", disk.syspath());
        let mut chain = vec![dir(&path, 73, "block", "partition", &[])];
        chain.extend(disk.chain.iter().cloned());
        host_node(DevNum::block(8, 17), name, chain)
    };
    let (sdb, sdc) = (disk("sdb", "0"), disk("sdc", "1"));
    let mut sg = sdb.clone();
    sg.chain[0] = dir(
        &format!("{}/scsi_generic/sg1", scsi("0").syspath),
        74,
        "scsi_generic",
        "",
        &[],
    );
    sg.devname = "sg1".parse().unwrap();
    let nodes = [
        usb.node(5),
        part(&sdb, "sdb2"),
        sdb.clone(),
        part(&sdb, "sdb1"),
        part(&sdc, "sdc1"),
        sdc,
        sg,
    ];
    assert_eq!(
        roles(&config("[alias.x]\nmatch.vendor = '0951'"), "x", &nodes),
        [
            "*block sdb",
            "block@lun1 sdc",
            "block@lun1.part1 sdc1",
            "block@part1 sdb1",
            "block@part2 sdb2",
            "scsi_generic sg1",
            "usb_device bus/usb/001/005"
        ]
    );
    // A match of the node is the disk alone, unless it is lifted to the whole stick.
    let text = "[alias.x]\nmatch.link = 'sdb'\n[alias.y]\nmatch = { link = 'sdb', whole = true }";
    assert_eq!(roles(&config(text), "x", &nodes), ["*block sdb"]);
    assert_eq!(roles(&config(text), "y", &nodes).len(), 7);
}

#[test]
fn loop_devices_and_their_partitions() {
    let disk = bare("/devices/virtual/block/loop3", 3, "block", DevNum::block(7, 3));
    let mut chain = vec![dir(
        "/devices/virtual/block/loop3/loop3p1",
        4,
        "block",
        "partition",
        &[],
    )];
    chain.extend(disk.chain.iter().cloned());
    let part = host_node(DevNum::block(259, 0), "loop3p1", chain);
    let text = "[alias.x]\nmatch.link = 'loop3'\n[alias.y]\nmatch = { link = 'loop3', whole = true }";
    let nodes = [part, disk];
    assert_eq!(roles(&config(text), "x", &nodes), ["*block loop3"]);
    assert_eq!(
        roles(&config(text), "y", &nodes),
        ["*block loop3", "block@part1 loop3p1"]
    );
}

#[test]
fn sound_video_and_television() {
    let usb = Usb::at("1-2", 7, "2", "046d:0825");
    let mut second = usb.class("00", "video4linux/video1", "video4linux", "uvcvideo");
    second.chain[0].attributes.insert("index".into(), "1".into());
    let nodes = [
        usb.class("00", "video4linux/video0", "video4linux", "uvcvideo"),
        second,
        usb.class("02", "sound/card3/controlC3", "sound", "snd-usb-audio"),
        usb.class("02", "sound/card3/pcmC3D0c", "sound", "snd-usb-audio"),
        usb.class("04", "dvb/dvb1.frontend0", "dvb", "dvb_usb"),
        usb.class("04", "dvb/dvb1.demux0", "dvb", "dvb_usb"),
        usb.class("03", "input/input9/event5", "input", "usbhid"),
        usb.class("03", "input/input10/event12", "input", "usbhid"),
    ];
    assert_eq!(
        roles(&config("[alias.x]\nmatch.vendor = '046d'"), "x", &nodes),
        [
            "dvb@demux0 dvb1.demux0",
            "*dvb@frontend0 dvb1.frontend0",
            "input@if03.event event5",
            "input@if03.event+1 event12",
            "sound@if02.control controlC3",
            "sound@if02.pcmD0c pcmC3D0c",
            "video4linux@if00.0 video0",
            "video4linux@if00.1 video1",
        ]
    );
}

#[test]
fn a_hub_covers_what_is_behind_it_on_both_speeds() {
    let slow = Usb::at("1-2", 1, "2", "2109:2817").hub().with("speed", "480");
    let fast = Usb::at("2-2", 2, "2", "2109:0817").hub().with("speed", "5000");
    let mouse = slow.behind("1-2.1", 3, "2.1", "046d:c077");
    let inner = slow.behind("1-2.4", 4, "2.4", "05e3:0610").hub();
    let stick = inner.behind("1-2.4.3", 5, "2.4.3", "0403:6001");
    let disk = fast.behind("2-2.2", 6, "2.2", "0951:1666");
    let next_door = Usb::at("1-20", 7, "20", "0403:6001");
    let nodes = [
        slow.node(1),
        fast.node(2),
        mouse.node(3),
        inner.node(4),
        stick.node(5),
        stick.class("00", "ttyUSB0/tty/ttyUSB0", "tty", "ftdi_sio"),
        disk.node(6),
        next_door.node(7),
    ];
    let hub = "[alias.hub]\nmatch = { vendor = '2109', product = '2817' }\n";
    assert_eq!(
        roles(&config(hub), "hub", &nodes),
        [
            "2.1/usb_device bus/usb/001/003".replace("2.1/", "1/"),
            "2/usb_device bus/usb/001/006".into(),
            "4.3/tty@if00 ttyUSB0".into(),
            "4.3/usb_device bus/usb/001/005".into(),
            "4/usb_device bus/usb/001/004".into(),
            "*usb_device bus/usb/001/001".into(),
            "usb_device@ss bus/usb/001/002".into(),
        ]
    );
    // A stick with an alias of its own is no longer the hub's, and neither is what is behind an inner hub with one.
    let text = format!("{hub}[alias.mine]\nmatch = {{ vendor = '0403', port = '0000:00:14.0/2.4.3' }}");
    assert_eq!(
        roles(&config(&text), "mine", &nodes),
        ["*tty@if00 ttyUSB0", "usb_device bus/usb/001/005"]
    );
    assert_eq!(roles(&config(&text), "hub", &nodes).len(), 5);
    let text = format!("{hub}[alias.inner]\nmatch.vendor = '05e3'");
    assert_eq!(roles(&config(&text), "inner", &nodes).len(), 3);
    assert_eq!(roles(&config(&text), "hub", &nodes).len(), 4);
    // An alias for one node takes this node alone.
    let text = format!("{hub}[alias.tty]\nmatch.link = 'ttyUSB0'");
    assert_eq!(roles(&config(&text), "tty", &nodes), ["*tty@if00 ttyUSB0"]);
    assert_eq!(roles(&config(&text), "hub", &nodes).len(), 6);
}

#[test]
fn another_stay_is_not_covered() {
    let (old, new) = (
        Usb::at("1-2", 1, "2", "0403:6001"),
        Usb::at("1-2", 2, "2", "0403:6001"),
    );
    let config = config("[alias.x]\nmatch.vendor = '0403'");
    let anchor = candidates(&config, &old.node(1)).remove(0).anchor;
    assert!(anchor.covers(&old.node(1)));
    assert!(!anchor.covers(&new.node(1)));
}

#[test]
fn two_aliases_for_one_device_both_have_it() {
    let usb = Usb::at("1-2", 7, "2", "0403:6001");
    let nodes = [
        usb.node(5),
        usb.class("00", "ttyUSB0/tty/ttyUSB0", "tty", "ftdi_sio"),
    ];
    let config = config(
        "[alias.a]\nmatch.vendor = '0403'\n[alias.b]\nmatch.port = '0000:00:14.0/2'\n[alias.c]\nmatch.subsystem = 'tty'",
    );
    assert_eq!(roles(&config, "a", &nodes).len(), 2);
    assert_eq!(roles(&config, "b", &nodes).len(), 2);
    assert_eq!(roles(&config, "c", &nodes), ["*tty@if00 ttyUSB0"]);
}

fn granted(text: &str, container: &str, owner: u32) -> Vec<String> {
    let config = config(text);
    grants(&config, &container.parse().unwrap(), owner)
        .into_iter()
        .map(|grant| grant.origin.to_string())
        .collect()
}

#[test]
fn the_exact_name_wins_over_a_pattern() {
    let text = "[[grant]]\nalias = 'x'\ncontainer = 'ctm:*'\n[[grant]]\nalias = 'x'\ncontainer = 'ctm:scan'\n[[grant]]\nalias = 'y'\ncontainer = 'ctm:*'";
    assert_eq!(granted(text, "ctm:scan", 0), ["test.toml:4", "test.toml:7"]);
    assert_eq!(granted(text, "ctm:other", 0), ["test.toml:1", "test.toml:7"]);
    assert_eq!(granted(text, "pid:scan", 0), Vec::<String>::new());
    assert_eq!(granted(text, "ctm:scan", 1000), Vec::<String>::new());
}

#[test]
fn a_name_is_no_authority() {
    let text = "[[grant]]\nalias = 'x'\ncontainer = 'pid:scan'\nuser = 1000";
    assert_eq!(granted(text, "pid:scan", 1000), ["test.toml:1"]);
    assert_eq!(granted(text, "pid:scan", 0), Vec::<String>::new());
}

#[test]
fn detached_grants_are_left_out() {
    let (file, faults) = crate::config::parse_file(
        "/run/devbroker/conf.d/x.toml".as_ref(),
        b"[[grant]]\nalias = 'x'\ncontainer = 'ctm:*'\n[[detach]]\nalias = 'x'\ncontainer = 'ctm:a'",
    );
    assert_eq!(faults, []);
    let config = crate::config::merge(vec![file]).0;
    assert_eq!(grants(&config, &"ctm:a".parse().unwrap(), 0).len(), 0);
    assert_eq!(grants(&config, &"ctm:b".parse().unwrap(), 0).len(), 1);
}

/// What a grant wants of a printer: role, path and links.
fn wanted(grant: &str) -> Vec<String> {
    let usb = Usb::at("1-2", 7, "2", "04b8:0005");
    let nodes = [usb.node(5), usb.class("00", "usbmisc/lp0", "usbmisc", "usblp")];
    let config = config(&format!(
        "[alias.x]\nmatch.vendor = '04b8'\n[[grant]]\nalias = 'x'\ncontainer = 'ctm:a'\n{grant}"
    ));
    let bound = bound(&config, &nodes);
    let alias = "x".parse().unwrap();
    let members = members(&alias, &bound[&alias], None, &bound, &nodes);
    wants(&config.grants[0], &members)
        .into_iter()
        .map(|want| {
            let links: Vec<&str> = want.links.iter().map(crate::model::NodePath::as_str).collect();
            let owner = want.owner.map(|owner| owner.to_string()).unwrap_or_default();
            let mode = want.mode.map(|mode| format!("{mode:o}")).unwrap_or_default();
            format!(
                "{} {} {} {owner} {mode} <- {}",
                want.role,
                want.path,
                want.access,
                links.join(" ")
            )
        })
        .collect()
}

#[test]
fn what_a_grant_wants() {
    assert_eq!(
        wanted(""),
        [
            "usb_device bus/usb/001/005 rw   <- devbroker/x.d/usb_device",
            "usbmisc@if00 lp0 rw   <- devbroker/x devbroker/x.d/usbmisc@if00"
        ]
    );
    assert_eq!(
        wanted("path = 'scan/printer'\naccess = 'w'\nowner = 'lp'\nmode = '0660'"),
        [
            "usb_device bus/usb/001/005 w lp 660 <- devbroker/x.d/usb_device",
            "usbmisc@if00 lp0 w lp 660 <- devbroker/x devbroker/x.d/usbmisc@if00 scan/printer"
        ]
    );
    assert_eq!(
        wanted("path = 'printer'\nas = 'node'"),
        [
            "usb_device bus/usb/001/005 rw   <- devbroker/x.d/usb_device",
            "usbmisc@if00 printer rw   <- devbroker/x devbroker/x.d/usbmisc@if00"
        ]
    );
    assert_eq!(
        wanted("path = 'lp0'"),
        wanted(""),
        "a path that is the kernel's name"
    );
    assert_eq!(
        wanted(
            "owner = 'a'\n[[grant.node]]\nrole = 'usb_device'\nowner = 5\nmode = '0600'\naccess = 'r'\npath = 'raw'\n[[grant.node]]\nrole = 'usbmisc@if00'\nomit = true"
        ),
        ["usb_device bus/usb/001/005 r 5 600 <- devbroker/x.d/usb_device raw"]
    );
}

//! A USB disk with two partitions, which is partitioned anew while it is plugged in: the nodes inside follow.

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Disk, Lab, Users, Vm};

const CONFIGURATION: &str = r#"
[alias.backup]
match = { serial = "D1" }

[[grant]]
alias = "backup"
container = "ctm:nas"
mode = "0640"
"#;

pub(super) fn run(lab: &Lab) -> Result<()> {
    Users::BOTH
        .into_iter()
        .try_for_each(|users| partition(&lab.restore()?, users))
}

fn partition(vm: &Vm, users: Users) -> Result<()> {
    let broker = Broker::start(vm, CONFIGURATION)?;
    let nas = Container::create(vm, "nas", users)?;
    nas.start()?;
    let disk = Disk::new(vm, "disk", "D1", &[8, 8])?;
    let plugged = disk.plug("4", 2)?;
    broker.settle()?;
    let whole = plugged
        .node("/dev/sd")?
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .to_owned();
    let blocks = || nas.ok("find /dev -type b | sort");
    ensure!(
        blocks()? == format!("{whole}\n{whole}1\n{whole}2"),
        "{}",
        blocks()?
    );
    for (role, node) in [
        ("block", String::new()),
        ("block@part1", "1".into()),
        ("block@part2", "2".into()),
    ] {
        let link = format!("/dev/devbroker/backup.d/{role}");
        ensure!(nas.ok(&format!("readlink -f {link}"))? == format!("{whole}{node}"));
        let opened = nas.open(&link)?;
        ensure!(
            opened.starts_with("ok block 8:") && opened.contains("640"),
            "{role}: {opened}"
        );
    }
    vm.ok(&format!(
        "printf ',4M\\n,4M\\n,4M\\n' | sfdisk -q --wipe always {whole}; udevadm settle"
    ))?;
    vm.wait_path(&format!("{whole}3"))?;
    broker.settle()?;
    ensure!(
        blocks()? == format!("{whole}\n{whole}1\n{whole}2\n{whole}3"),
        "{}",
        blocks()?
    );
    vm.ok(&format!(
        "printf ',4M\\n' | sfdisk -q --wipe always {whole}; udevadm settle"
    ))?;
    vm.wait_gone(&format!("{whole}3"))?;
    broker.settle()?;
    ensure!(blocks()? == format!("{whole}\n{whole}1"), "{}", blocks()?);
    disk.unplug()?;
    vm.wait_gone(&whole)?;
    broker.settle()?;
    ensure!(blocks()?.is_empty(), "{}", blocks()?);
    Ok(())
}

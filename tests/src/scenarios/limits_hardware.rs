//! Limits that need something of the machine: swap, two NUMA nodes, a disk that is shared by weight; and the buffers of TCP. Each is
//! set in a running container, and a program inside tries to exceed it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::limits_bite::{MIB, SOON, file, limited};
use crate::vm::{Container, Lab, Users, Vm};

/// Half of the memory and one of the processors each.
const TWO_NODES: &[&str] = &[
    "-object",
    "memory-backend-ram,id=m0,size=512M",
    "-object",
    "memory-backend-ram,id=m1,size=512M",
    "-numa",
    "node,memdev=m0,cpus=0",
    "-numa",
    "node,memdev=m1,cpus=1",
];

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.boot_with(TWO_NODES)?;
    vm.ok("mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf")?;
    let container = limited(&vm, "box", Users::Own, "numa_nodes=1")?;
    nodes(&vm, &container)?;
    buffers(&vm, &container)?;
    counted(&vm, &container)?;
    swap(&vm, &container)?;
    container.destroy()?;
    weights(&vm)
}

/// What is asked for is on the nodes that are allowed, and moves when others are.
fn nodes(vm: &Vm, container: &Container) -> Result<()> {
    let on_nodes = || -> Result<[u64; 2]> {
        let text = vm.get(&file("box", "memory.numa_stat"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("anon N0="));
        let sizes = line.and_then(|line| {
            let (first, second) = line.split_once(" N1=")?;
            Some([first.parse().ok()?, second.trim().parse().ok()?])
        });
        sizes.with_context(|| format!("no two nodes: {text}"))
    };
    let hog = vm.start_job("exec ctm exec box -- probe hog 48")?;
    hog.wait_for("held", SOON)?;
    let [first, second] = on_nodes()?;
    ensure!(
        first < MIB && second >= 48 * MIB,
        "of node 1 alone: {first} bytes of node 0, {second} of node 1"
    );
    vm.ok("ctm set box numa_nodes=0")?;
    vm.until(&format!(
        "grep -Eq '^anon N0=[0-9]{{8,}} N1=[0-9]{{1,6}}$' {}",
        file("box", "memory.numa_stat")
    ))?;
    let [moved, left] = on_nodes()?;
    ensure!(moved >= 48 * MIB, "{moved} bytes of node 0, {left} of node 1");
    hog.close_input()?;
    ensure!(hog.wait(SOON)?.success());
    container.ok("probe hog 16 </dev/null")?;
    vm.log().add(
        "figures",
        &format!(
            "48 MiB with numa_nodes=1: {first} bytes of node 0, {second} of node 1; after numa_nodes=0: {moved} and {left}"
        ),
    );
    vm.ok("ctm set box numa_nodes=").map(drop)
}

/// Who sends to somebody who does not read gets rid of less.
fn buffers(vm: &Vm, container: &Container) -> Result<()> {
    let unread = || -> Result<[u64; 2]> {
        let text = container.ok("ip link set lo up; probe unread </dev/null")?;
        let (sender, receiver) = text.split_once(' ').context("no two numbers")?;
        Ok([sender.parse()?, receiver.parse()?])
    };
    let set = |keys: &str| vm.ok(&format!("ctm set box {keys}"));
    let free = unread()?;
    set("tcp_send_buffer=64K")?;
    let sender = unread()?;
    set("tcp_send_buffer= tcp_receive_buffer=16K")?;
    let receiver = unread()?;
    set("tcp_receive_buffer=")?;
    let again = unread()?;
    vm.log().add(
        "figures",
        &format!(
            "bytes that wait at the sender and at the receiver: {free:?} without limits, {sender:?} with tcp_send_buffer=64K, \
             {receiver:?} with tcp_receive_buffer=16K, {again:?} without"
        ),
    );
    ensure!(
        sender[0] <= 64 << 10 && sender[0] * 4 < free[0],
        "{sender:?}, without {free:?}"
    );
    ensure!(
        receiver[1] <= 16 << 10 && receiver[1] * 3 < free[1],
        "{receiver:?}, without {free:?}"
    );
    ensure!(
        again[0] > sender[0] && again[1] > receiver[1],
        "lifted: {again:?}"
    );
    Ok(())
}

/// What is open inside is counted, whatever the container has mounted where it would be looked for.
fn counted(vm: &Vm, container: &Container) -> Result<()> {
    let counters = || -> Result<BTreeMap<String, Value>> {
        let text = vm.ok("ctm counters box --json")?;
        let all: Value = serde_json::from_str(&text)?;
        let rows = all
            .pointer("/0/counters")
            .and_then(Value::as_array)
            .context("no rows")?;
        let named = |row: &Value| Some((row.get("resource")?.as_str()?.to_owned(), row.clone()));
        Ok(rows.iter().filter_map(named).collect())
    };
    let held = |rows: &BTreeMap<String, Value>, name: &str| -> Result<u64> {
        let held = rows.get(name).and_then(|row| row.get("held")?.as_u64());
        held.with_context(|| format!("{name} is not in {rows:?}"))
    };
    let before = counters()?;
    ensure!(
        held(&before, "terminals")? == 0 && held(&before, "tcp_sockets")? == 0,
        "{before:?}"
    );
    vm.ok("ctm set box ptys=7")?;
    let job =
        vm.start_job("exec ctm exec box -- /bin/sh -c 'exec 4<>/dev/ptmx 5<>/dev/ptmx; exec probe unread'")?;
    let said = job.wait_for("\n", SOON)?;
    vm.ok(&format!(
        "nsenter --mount --target {} mount -t tmpfs none /dev/pts",
        container.pid()?
    ))?;
    let now = counters()?;
    let waiting = [held(&now, "tcp_to_send")?, held(&now, "tcp_to_read")?];
    let sent: Vec<u64> = said
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // Some of it may have arrived since.
    ensure!(
        waiting.iter().sum::<u64>() == sent.iter().sum::<u64>() && waiting.iter().all(|bytes| *bytes > 0),
        "{sent:?} is waiting, {waiting:?} is counted"
    );
    ensure!(
        held(&now, "tcp_sockets")? == 3,
        "one listens, two are connected: {now:?}"
    );
    ensure!(held(&now, "terminals")? == 2, "{now:?}");
    ensure!(
        now.get("terminals").and_then(|row| row.get("limit")?.as_u64()) == Some(7),
        "{now:?}"
    );
    let opened = held(&now, "open_files")? - held(&before, "open_files")?;
    // Three that each process has, two terminals, three sockets.
    ensure!(opened == 8, "{opened} files more: {before:?}, {now:?}");
    vm.log().add(
        "figures",
        &format!(
            "counted: {opened} files more, 2 terminals of 7, 3 sockets of TCP on which {waiting:?} bytes wait, {} others",
            held(&now, "other_sockets")?
        ),
    );
    let text = vm.ok("ctm counters box --prometheus")?;
    for line in [
        "ctm_held{container=\"box\",resource=\"terminals\"} 2",
        "ctm_limit{container=\"box\",resource=\"terminals\"} 7",
        "ctm_held{container=\"box\",resource=\"tcp_sockets\"} 3",
    ] {
        ensure!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    job.close_input()?;
    job.wait(SOON)?;
    let after = counters()?;
    ensure!(
        held(&after, "terminals")? == 0 && held(&after, "tcp_sockets")? == 0,
        "{after:?}"
    );
    Ok(())
}

/// A hog has its memory and its swap, and not more.
fn swap(vm: &Vm, container: &Container) -> Result<()> {
    vm.ok("modprobe zram && echo 96M >/sys/block/zram0/disksize && mkswap /dev/zram0 >/dev/null && swapon /dev/zram0")?;
    // How many MiB it had when it was ended, and the most of them that were swapped out.
    let hog = || -> Result<[u64; 2]> {
        let said = container.run("probe hog 90 </dev/null")?;
        ensure!(said.status == 137, "nothing ended it: {said:?}");
        let lines = said.stdout.lines().filter_map(|line| line.split_once(' '));
        let lines = lines
            .map(|(mib, swapped)| Ok([mib.parse()?, swapped.parse()?]))
            .collect::<Result<Vec<[u64; 2]>>>()?;
        let last = lines.last().context("it had nothing")?[0];
        Ok([last, lines.iter().map(|line| line[1]).max().unwrap_or_default()])
    };
    vm.ok("ctm set box memory_limit=32M swap_limit=16M")?;
    let [some, swapped] = hog()?;
    vm.ok("ctm set box swap_limit=0")?;
    let [none, left] = hog()?;
    vm.ok("ctm set box swap_limit=32M")?;
    let [more, swapped_more] = hog()?;
    vm.log().add(
        "figures",
        &format!(
            "ended in 32 MiB of memory: at {some} MiB with 16 MiB of swap (at most {swapped} bytes swapped out), at \
             {none} MiB without ({left} bytes), at {more} MiB with 32 MiB ({swapped_more} bytes)"
        ),
    );
    ensure!(
        (40..48).contains(&some) && (12 * MIB..=16 * MIB).contains(&swapped),
        "{some} MiB, {swapped} bytes"
    );
    ensure!((20..32).contains(&none) && left < MIB, "{none} MiB, {left} bytes");
    ensure!(
        (54..64).contains(&more) && swapped_more <= 32 * MIB,
        "{more} MiB, {swapped_more} bytes"
    );
    vm.ok("swapoff /dev/zram0").map(drop)
}

/// Two that read from the same disk at once have shares of it by their weights, also once these have changed places.
fn weights(vm: &Vm) -> Result<()> {
    // The disk is as fast as `io.cost` is told that it is, which no load of this machine's makes slower.
    let pair = ["left", "right"].map(|name| limited(vm, name, Users::Own, "cpus="));
    let [left, right] = pair;
    let (left, right) = (left?, right?);
    let said = vm.ok("ctm set left io_weight=800 2>&1; ctm set right io_weight=100 2>&1; ctm validate")?;
    ensure!(
        said.matches("no disk of this host is shared by weight").count() == 2,
        "{said}"
    );
    vm.ok(r#"set -e
           mkdir -p /srv/slow /srv/disk; mount -t tmpfs -o size=40M none /srv/slow; truncate -s 24M /srv/slow/image
           disk=$(losetup --find --show /srv/slow/image); mkfs.ext4 -q $disk; mount $disk /srv/disk
           dd if=/dev/urandom of=/srv/disk/left bs=1M count=4 2>/dev/null; cp /srv/disk/left /srv/disk/right; sync
           number=$(cat /sys/block/${disk#/dev/}/dev)
           speeds=$(for way in r w; do echo ${way}bps=2097152 ${way}seqiops=64 ${way}randiops=64; done | xargs)
           echo "$number enable=1 ctrl=user rpct=0 wpct=0 min=100 max=100" >/sys/fs/cgroup/io.cost.qos
           echo "$number ctrl=user model=linear $speeds" >/sys/fs/cgroup/io.cost.model
           for name in left right; do ctm mount add $name --bind /srv/disk /data; done"#)?;
    let said = vm.ok("ctm set left io_weight=700 2>&1; ctm set left io_weight=800 2>&1; ctm validate")?;
    ensure!(!said.contains("by weight"), "{said}");
    let readers = ["left", "right"].map(|name| {
        vm.start_job(&format!(
            "exec ctm exec {name} -- /bin/sh -c 'while dd if=/data/{name} of=/dev/null bs=64k iflag=direct 2>/dev/null; do :; done'"
        ))
    });
    let stat = |name: &str| file(name, "io.stat");
    let read = |name: &str| -> Result<u64> {
        let text = vm.get(&stat(name))?;
        let bytes = text
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("rbytes=")?.parse::<u64>().ok());
        Ok(bytes.sum())
    };
    // Between two looks both together read so much, of which each has its share.
    let shares = || -> Result<[u64; 2]> {
        let begin = [read("left")?, read("right")?];
        vm.until(&format!(
            "sum=0; for bytes in $(grep -ho 'rbytes=[0-9]*' {} {} | cut -d = -f 2); do sum=$((sum + bytes)); done; [ $sum -ge {} ]",
            stat("left"),
            stat("right"),
            begin[0] + begin[1] + 3 * MIB
        ))?;
        Ok([read("left")? - begin[0], read("right")? - begin[1]])
    };
    for name in ["left", "right"] {
        vm.until(&format!("grep -q 'rbytes=[1-9]' {}", stat(name)))?;
    }
    let first = shares()?;
    vm.ok("ctm set left io_weight=100; ctm set right io_weight=800")?;
    let second = shares()?;
    vm.log().add(
        "figures",
        &format!("bytes read at once with weights 800 and 100: {first:?}; with 100 and 800: {second:?}"),
    );
    ensure!(first[0] > first[1] * 2, "weights 800 and 100: {first:?}");
    ensure!(second[1] > second[0] * 2, "weights 100 and 800: {second:?}");
    vm.ok("ctm kill left; ctm kill right")?;
    for reader in readers {
        reader?.wait(SOON)?;
    }
    left.destroy()?;
    right.destroy()
}

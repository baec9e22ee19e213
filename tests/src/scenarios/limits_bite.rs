//! Each limit, and a program inside that tries to exceed it: memory, processes, processors, disks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::vm::{Container, Lab, Users, Vm};

/// How long a program may take that is only slowed down.
pub(super) const SOON: Duration = Duration::from_secs(100);

/// A container that does nothing, with these limits; ctm alone runs it.
pub(super) fn limited(vm: &Vm, name: &str, users: Users, limits: &str) -> Result<Container> {
    let container = Container::create(vm, name, users)?;
    vm.ok(&format!("ctm set {name} {limits}"))?;
    container.start()?;
    Ok(container)
}

/// A file of the cgroup of a container that ctm alone runs.
pub(super) fn file(name: &str, file: &str) -> String {
    format!("/sys/fs/cgroup/ctm/{name}/container/{file}")
}

/// A number in such a file, by the word before it, or the only one.
fn number(vm: &Vm, name: &str, of: &str, key: &str) -> Result<u64> {
    let text = vm.get(&file(name, of))?;
    let line = match key {
        "" => text.lines().next(),
        key => text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')),
    };
    line.and_then(|line| line.trim().parse().ok())
        .with_context(|| format!("no `{key}` in {of} of {name}: {text}"))
}

/// It runs, and so do commands in it.
fn goes_on(container: &Container) -> Result<()> {
    container.ok("true").map(drop).context("the container was harmed")
}

pub(super) const MIB: u64 = 1 << 20;

/// A hog is ended at the limit, a writer slowed at the barrier, what is kept stays while others give theirs.
pub(super) fn memory(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.ok("echo 4 >/proc/sys/vm/nr_hugepages; mkdir -p /srv/huge; mount -t hugetlbfs -o mode=1777 none /srv/huge
           mkdir -p /var/lib/lxcfs/proc; echo 'MemTotal: 40960 kB' >/var/lib/lxcfs/proc/meminfo")?;
    let limits = "memory_limit=40M swap_limit=0 shm=2M ptys=3 'hugepages={\"2M\"=\"4M\"}' tcp_receive_buffer=64K \
                  'rlimits={nofile=\"40:50\",core=0}' oom_score_adj=300";
    let box_ = limited(&vm, "box", Users::Own, limits)?;
    vm.ok("ctm mount add box --bind /srv/huge /huge")?;

    let said = box_.run("dd if=/dev/zero of=/dev/null bs=16M count=1")?;
    ensure!(said.success(), "less than the limit: {said:?}");
    let said = box_.run("dd if=/dev/zero of=/dev/null bs=100M count=1")?;
    ensure!(said.status == 137, "a hog of 100 MiB in 40 MiB: {said:?}");
    ensure!(number(&vm, "box", "memory.events", "oom_kill")? >= 1);
    // Cached pages are given back at the barrier, and nobody dies of it.
    vm.ok("ctm set box memory_barrier=24M")?;
    let before = number(&vm, "box", "memory.events", "high")?;
    box_.ok("dd if=/dev/zero of=/file bs=1M count=48 2>/dev/null; rm /file")?;
    let peak = number(&vm, "box", "memory.peak", "")?;
    ensure!(peak <= 40 * MIB, "it had {peak} bytes");
    ensure!(number(&vm, "box", "memory.events", "high")? > before);
    goes_on(&box_)?;

    let said =
        box_.run("dd if=/dev/zero of=/dev/shm/x bs=1M count=3 2>&1; stat -c %s /dev/shm/x; rm /dev/shm/x")?;
    ensure!(
        said.stdout.contains("No space left") && said.stdout.contains("2097152"),
        "/dev/shm: {said:?}"
    );
    let said =
        box_.run("fallocate -l 4M /huge/fits && rm /huge/fits && fallocate -l 6M /huge/more; ls -l /huge")?;
    ensure!(
        said.stderr.contains("fallocate") && !said.stdout.contains("fits"),
        "huge pages: {said:?}"
    );
    vm.ok("rm -f /srv/huge/*")?;
    let open = "exec 4<>/dev/ptmx && echo 1 && exec 5<>/dev/ptmx && echo 2 && exec 6<>/dev/ptmx && echo 3 && exec 7<>/dev/ptmx && echo 4";
    let said = box_.run(open)?;
    ensure!(
        said.stdout == "1\n2\n3\n" && said.stderr.contains("No space left"),
        "terminals: {said:?}"
    );
    let said = box_.run("ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hn 60; cat /proc/self/oom_score_adj; cat /proc/sys/net/ipv4/tcp_rmem")?;
    ensure!(
        said.stdout.split_whitespace().collect::<Vec<_>>()
            == ["40", "50", "0", "300", "4096", "65536", "65536"]
            && !said.stderr.is_empty(),
        "of processes: {said:?}"
    );
    cannot_lift(&box_)?;
    // As lxcfs has it; its own files are not here.
    let said = box_.ok("cat /proc/meminfo; head -n 1 /proc/uptime | wc -w")?;
    ensure!(said == "MemTotal: 40960 kB\n2", "/proc: {said}");
    box_.destroy()?;
    kept(&vm)
}

/// Nothing of it is to be changed from inside, with ids of its own or as the host's root by number.
fn cannot_lift(container: &Container) -> Result<()> {
    let said = container.run(
        "for f in memory.max memory.high memory.min pids.max cpu.max io.max cpuset.cpus cpu.weight; do \
             echo max >/sys/fs/cgroup/$f && echo changed $f; echo 100 >/sys/fs/cgroup/$f && echo changed $f; done; \
         echo 4096 131072 6291456 >/proc/sys/net/ipv4/tcp_rmem && echo changed tcp_rmem; \
         echo -5 >/proc/1/oom_score_adj && echo changed oom_score_adj; mount -o remount,size=9M /dev/shm && echo changed shm; true",
    )?;
    ensure!(!said.stdout.contains("changed"), "lifted from inside: {said:?}");
    Ok(())
}

/// Three containers have cached as much each; a hog on the host takes memory, from the one to which nothing is guaranteed.
fn kept(vm: &Vm) -> Result<()> {
    for (name, limits) in [
        ("kept", "memory_guarantee=24M"),
        ("soft", "memory_soft_guarantee=24M"),
        ("free", "shm=1M"),
    ] {
        let container = limited(vm, name, Users::Host, limits)?;
        if name == "kept" {
            cannot_lift(&container)?;
        }
        container.ok("dd if=/dev/zero of=/file bs=1M count=22 conv=fsync 2>/dev/null")?;
    }
    let sums = "cd /sys/fs/cgroup/ctm; cat memory.{min,low} {kept,soft,free}/memory.min | xargs";
    ensure!(vm.ok(sums)? == "25165824 25165824 25165824 0 0");
    let (hard, _) = under_pressure(vm, "usual")?;
    ensure!(
        hard >= 20 * MIB,
        "of 22 MiB that were guaranteed {hard} bytes are left"
    );
    // With its multi-generational lists the kernel keeps what is softly guaranteed no longer than other things.
    vm.ok("echo n >/sys/kernel/mm/lru_gen/enabled
           for name in soft free; do ctm exec $name -- cat /file >/dev/null; done")?;
    let (hard, soft) = under_pressure(vm, "without lru_gen")?;
    ensure!(
        hard >= 20 * MIB && soft >= 16 * MIB,
        "of 22 MiB that were guaranteed {hard} bytes are left, of 22 MiB that were to be kept as long as possible {soft}"
    );
    // What ends gives up what was kept for it, and so does who is not to have it any more.
    vm.ok("ctm stop kept; ctm set soft memory_soft_guarantee=")?;
    ensure!(vm.ok("cat /sys/fs/cgroup/ctm/memory.{min,low} | xargs")? == "0 0");
    vm.ok("for name in kept soft free; do ctm stop $name; ctm destroy $name --yes; done")
        .map(drop)
}

/// Fills memory, most of it at once, the rest bit by bit, until the one without a guarantee has given what it had. Answers with what
/// the other two have then.
fn under_pressure(vm: &Vm, how: &str) -> Result<(u64, u64)> {
    vm.ok("set -e
         mkdir -p /srv/fill; mount -t tmpfs -o size=100% none /srv/fill
         free=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
         fill() { dd if=/dev/zero of=/srv/fill/x bs=4M count=$1 oflag=append conv=notrunc 2>/dev/null; }
         fill $(((free - 140) / 4))
         while [ $(cat /sys/fs/cgroup/ctm/free/container/memory.current) -gt 6000000 ]; do fill 1; done")?;
    let left = |name: &str| number(vm, name, "memory.current", "");
    let (hard, soft, free) = (left("kept")?, left("soft")?, left("free")?);
    vm.log().add(
        "figures",
        &format!(
            "left of 22 MiB each under pressure ({how}): guaranteed {hard}, softly {soft}, without {free}"
        ),
    );
    vm.ok("umount /srv/fill")?;
    Ok((hard, soft))
}

/// A fork bomb has its processes, and no more; the machine and the neighbour go on, and it can be stopped.
pub(super) fn processes(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let bomb = limited(
        &vm,
        "bomb",
        Users::Own,
        "processes=48 cpu_limit=50 memory_limit=64M",
    )?;
    let neighbour = limited(&vm, "neighbour", Users::Own, "processes=48")?;
    let job = vm.start_job("exec ctm exec bomb -- /bin/sh -c 'b() { b | b & }; b; while :; do :; done'")?;
    vm.until(&format!("grep -q '^max [1-9]' {}", file("bomb", "pids.events")))?;
    goes_on(&neighbour)?;
    let (peak, now) = (
        number(&vm, "bomb", "pids.peak", "")?,
        number(&vm, "bomb", "pids.current", "")?,
    );
    ensure!(peak == 48, "{peak} processes, {now} now");
    // Neither is more to be had by moving, nor with a deeper cgroup.
    ensure!(number(&vm, "bomb", "pids.max", "")? == 48);
    vm.ok("ctm set bomb processes=20")?;
    ensure!(number(&vm, "bomb", "pids.max", "")? == 20);
    vm.ok("ctm kill bomb")?;
    job.wait(SOON)?;
    vm.until("ctm status bomb | grep -q stopped")?;
    goes_on(&neighbour)?;
    neighbour.destroy()?;
    bomb.destroy()
}

/// A burner has its percentage, its share and its processors.
pub(super) fn processors(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let burn = "while :; do :; done";
    let a = limited(&vm, "a", Users::Own, "cpu_limit=20% cpus=1")?;
    ensure!(a.ok("nproc; grep -h Cpus_allowed_list /proc/self/status | cut -f 2; taskset -p 1 $$ >/dev/null 2>&1 && echo moved; true")? == "1\n1");
    let used = |name: &str| number(&vm, name, "cpu.stat", "usage_usec");
    let job = vm.start_job(&format!("exec ctm exec a -- /bin/sh -c '{burn}'"))?;
    vm.until(&format!(
        "grep -q '^nr_throttled [1-9]' {}",
        file("a", "cpu.stat")
    ))?;
    // Time and use are read together: in emulation what lies between is no small part.
    let look = format!(
        "date +%s%6N; sed -n 's/usage_usec //p; s/nr_throttled //p' {} | xargs",
        file("a", "cpu.stat")
    );
    let sample = || -> Result<[u64; 3]> {
        let text = vm.ok(&look)?;
        let numbers = text
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u64>, _>>()?;
        <[u64; 3]>::try_from(numbers).map_err(|numbers| anyhow::anyhow!("{numbers:?}"))
    };
    let begin = sample()?;
    let more = begin[2] + 12;
    vm.until(&format!(
        "[ $(sed -n 's/nr_throttled //p' {}) -ge {more} ]",
        file("a", "cpu.stat")
    ))?;
    let end = sample()?;
    let percent = (end[1] - begin[1]) * 100 / (end[0] - begin[0]).max(1);
    vm.log().add(
        "figures",
        &format!(
            "a burner with 20% of a processor had {percent}% of {} us",
            end[0] - begin[0]
        ),
    );
    ensure!(percent <= 25, "a burner with 20% of a processor had {percent}%");
    // Without its limit it burns on, against one of a fourth of its weight on the same processor.
    let b = limited(&vm, "b", Users::Own, "cpu_weight=50 cpus=1")?;
    vm.ok("ctm set a cpu_limit= cpu_weight=200")?;
    let other = vm.start_job(&format!("exec ctm exec b -- /bin/sh -c '{burn}'"))?;
    vm.until(&format!(
        "[ $(sed -n 's/^usage_usec //p' {}) -ge 300000 ]",
        file("b", "cpu.stat")
    ))?;
    let (first_a, first_b) = (used("a")?, used("b")?);
    vm.until(&format!(
        "[ $(sed -n 's/^usage_usec //p' {}) -ge {} ]",
        file("b", "cpu.stat"),
        first_b + 400_000
    ))?;
    let (heavy, light) = (used("a")? - first_a, used("b")? - first_b);
    vm.log().add(
        "figures",
        &format!("weights 200 and 50 had {heavy} and {light} us"),
    );
    ensure!(heavy > light * 2, "weights 200 and 50 had {heavy} and {light} us");
    let said = vm.fails("ctm set a cpus=64")?;
    ensure!(
        said.stderr.contains("cpus: cannot write `64`") && said.stderr.contains("cpu/online"),
        "{said:?}"
    );
    let said = vm.fails("ctm set a numa_nodes=7")?;
    ensure!(said.stderr.contains("numa_nodes: cannot write `7`"), "{said:?}");
    vm.ok("ctm kill a; ctm kill b")?;
    job.wait(SOON)?;
    other.wait(SOON)?;
    a.destroy()?;
    b.destroy()
}

/// A writer and a reader have their bytes and operations a second; what is lifted counts while they are at it.
pub(super) fn disks(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    let device = "/dev/disk/by-path/none";
    let said = vm.ok("findmnt -no SOURCE /")?;
    let limits = |text: &str| format!("'io_limits=[{{device=\"{said}\",{text}}}]'");
    let a = limited(
        &vm,
        "a",
        Users::Own,
        &limits("write_bytes=\"256K\",read_bytes=\"1M\""),
    )?;
    let write = |bytes: &str, count: u32| {
        format!("ctm exec a -- dd if=/dev/zero of=/file bs={bytes} count={count} oflag=direct 2>/dev/null")
    };
    let took = |command: &str| -> Result<u64> {
        let text = vm.ok(&format!(
            "begin=$(date +%s%3N); {command}; echo $(($(date +%s%3N) - begin))"
        ))?;
        Ok(text.trim().parse()?)
    };
    let bytes = took(&write("64K", 12))?;
    vm.ok(&format!("ctm set a {}", limits("write_ops=8")))?;
    let operations = took(&write("4K", 24))?;
    vm.ok("ctm set a io_limits= io_weight=10")?;
    let free = took(&write("64K", 12))?;
    vm.log().add(
        "figures",
        &format!("768 KiB at 256 KiB/s: {bytes} ms; 24 writes at 8 a second: {operations} ms; without a limit: {free} ms"),
    );
    // Less than what the limit says alone, as the kernel lets the first part pass at once; a busy host only makes it more.
    ensure!(bytes >= 2000, "768 KiB at 256 KiB/s took {bytes} ms");
    ensure!(operations >= 2000, "24 writes at 8 a second took {operations} ms");
    ensure!(free < bytes, "without a limit {free} ms, with one {bytes} ms");
    // Lifted under way: it would take 16 minutes.
    vm.ok(&format!("ctm set a {}", limits("write_bytes=\"4K\"")))?;
    let job = vm.start_job(&format!("echo begun; {}", write("64K", 64)))?;
    job.wait_for("begun", SOON)?;
    vm.until(&format!("grep -q wbps=4096 {}", file("a", "io.max")))?;
    vm.ok("ctm set a io_limits=")?;
    ensure!(job.wait(SOON)?.success());
    ensure!(vm.get(&file("a", "io.max"))?.trim().is_empty());
    ensure!(vm.get(&file("a", "io.weight"))?.trim() == "default 10");
    let said = vm.fails(&format!("ctm set a 'io_limits=[{{device=\"{device}\"}}]'"))?;
    ensure!(
        said.stderr.contains(device) && said.stderr.contains("lsblk"),
        "{said:?}"
    );
    a.destroy()
}

//! One container does all that harms others at once, within its limits: a memory hog, CPU burners, a writer, a disk filler, an inode
//! filler and a fork bomb. Its neighbour goes on; how fast before, meanwhile and after is written into the log.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::vm::{Container, Lab, Users, Vm};

const SOON: Duration = Duration::from_secs(100);

/// What it may have.
const LIMITS: &str = "memory_limit=64M swap_limit=0 processes=48 cpu_limit=60% cpu_weight=20 io_weight=20 disk_space=40M disk_inodes=1500";

/// Fills the disk, and then tries to go on.
const FILLER: &str = "dd if=/dev/zero of=/filled bs=256k; while :; do dd if=/dev/zero of=/filled bs=64k conv=notrunc count=4 oflag=append; done";
/// Each goes on until the kernel ends it for want of memory or processes, whichever that is.
const HARM: [&str; 4] = [
    "while :; do dd if=/dev/zero of=/dev/null bs=100M count=1; done",
    "while :; do :; done",
    "while :; do dd if=/dev/zero of=/written bs=64k count=160 conv=fsync; done",
    "mkdir /many; i=0; while :; do >/many/$i; i=$((i+1)); done",
];
const BOMB: &str = "b() { b | b & }; b; while :; do :; done";

/// How many commands are run in it from outside.
const ENTERING: u64 = 2 + HARM.len() as u64;

/// How often the neighbour beats.
const BEATS: u32 = 25;

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    // A store that keeps limits of disk, on a disk of its own.
    vm.ok(
        "mkdir -p /var/lib/ctm; truncate -s 160M /srv/disk; mkfs.ext4 -q -O project,quota /srv/disk
           mount -o loop,prjquota /srv/disk /var/lib/ctm",
    )?;
    let disk = vm.ok("findmnt -no SOURCE /var/lib/ctm")?;
    let harm = Container::create(&vm, "harm", Users::Own)?;
    vm.ok(&format!(
        "ctm set harm {LIMITS} 'io_limits=[{{device=\"{disk}\",write_bytes=\"2M\",write_ops=200}}]'"
    ))?;
    let neighbour = Container::create(&vm, "neighbour", Users::Own)?;
    harm.start()?;
    neighbour.start()?;
    // The first ones read programs.
    beat(&neighbour)?;
    let before = beat(&neighbour)?;

    // Whatever the kernel ends comes again, until the container is gone.
    let start = |script: &str| {
        vm.start_job(&format!(
            "until ctm exec harm -- /bin/sh -c '{script}' 2>/dev/null; [ $? = 31 ]; do sleep 1; done"
        ))
    };
    // First what the hog could have ended before it has done its harm.
    let mut jobs = vec![start(FILLER)?];
    vm.until("[ $(du -sk /var/lib/ctm/harm | cut -f 1) -ge 30000 ]")?;
    for script in HARM.iter().chain([&BOMB]) {
        jobs.push(start(script)?);
    }
    let cgroup = "/sys/fs/cgroup/ctm/harm/container";
    vm.until(&format!(
        "cd {cgroup}; grep -q '^oom_kill [1-9]' memory.events && grep -q '^max [1-9]' pids.events && grep -q '^nr_throttled [1-9]' cpu.stat"
    ))?;
    let during = beat(&neighbour)?;
    let used = figures(&vm, cgroup)?;
    vm.ok("ctm kill harm")?;
    for job in jobs {
        job.wait(SOON)?;
    }
    vm.until("ctm status harm | grep -q stopped")?;
    let after = beat(&neighbour)?;
    vm.log().add(
        "figures",
        &format!(
            "a process started and 4 KiB written and synced by the neighbour, median and worst of {BEATS}, in us: before {}, while harm is \
             done {}, after {}; meanwhile the other had {used}",
            before.shown(),
            during.shown(),
            after.shown()
        ),
    );
    // In emulation a turn of the scheduler is long, and the disk is one file's for both.
    ensure!(
        during.median <= before.median.max(after.median) * 40,
        "{} became {}",
        before.shown(),
        during.shown()
    );
    let events =
        vm.ok("ctm exec neighbour -- cat /sys/fs/cgroup/memory.events /sys/fs/cgroup/pids.events | xargs")?;
    ensure!(
        events == "low 0 high 0 max 0 oom 0 oom_kill 0 oom_group_kill 0 max 0",
        "the neighbour: {events}"
    );
    harm.destroy()?;
    neighbour.destroy()
}

/// What it had of what it may have.
fn figures(vm: &Vm, cgroup: &str) -> Result<String> {
    let text = vm.ok(&format!(
        "cd {cgroup}; cat memory.peak pids.peak; du -sk /var/lib/ctm/harm | cut -f 1; find /var/lib/ctm/harm | wc -l; \
         df -k --output=avail /var/lib/ctm | tail -1; sed -n 's/^oom_kill //p' memory.events"
    ))?;
    let numbers = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()?;
    let [memory, processes, disk, files, left, killed] = numbers[..] else {
        anyhow::bail!("{text}");
    };
    let shown = format!(
        "at most {} KiB of memory and {processes} processes, {disk} KiB and {files} files on the disk; {killed} ended for want of memory",
        memory / 1024
    );
    // What enters from outside is one more than the container itself could have.
    ensure!(memory <= 64 << 20 && processes <= 48 + ENTERING, "{shown}");
    ensure!(disk <= 41 * 1024 && files <= 1500, "{shown}");
    ensure!(left > 20 * 1024, "{left} KiB are left for others; {shown}");
    Ok(shown)
}

/// How long a beat takes, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Beat {
    median: u64,
    worst: u64,
}

impl Beat {
    fn shown(self) -> String {
        format!("{} {}", self.median, self.worst)
    }
}

fn beat(container: &Container) -> Result<Beat> {
    let said = container.ok(&format!("probe beat {BEATS} /beat"))?;
    let number = |word: Option<&str>| {
        word.and_then(|word| word.parse().ok())
            .with_context(|| format!("probe beat: {said}"))
    };
    let mut words = said.split(' ');
    Ok(Beat {
        median: number(words.next())?,
        worst: number(words.next())?,
    })
}

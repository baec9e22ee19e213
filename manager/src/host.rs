//! What a machine has that containers share: this one, read from its kernel, or one that a person describes.

use crate::definition::Numbers;
use crate::plan::split::Host;
use crate::plan::validate::{DiskKept, FileSystem, Machine};
use crate::quantity::{QuantityError, Size};
use crate::quota::{self, Kind};
use crate::run::network;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A machine that cannot be seen or understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error("cannot read {}: {source}; describe the machine with --host memory=SIZE", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} says nothing of {what} that could be understood; describe the machine with --host memory=SIZE", .path.display())]
    Content { path: PathBuf, what: &'static str },
}

/// A text that describes no machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DescriptionError {
    #[error("`{0}` says nothing of a machine; write it as in `memory=3G,swap=1G,cpus=2,disk=200G`")]
    Word(String),
    #[error("{0}")]
    Size(#[from] QuantityError),
    #[error("`{0}` is of no machine's own; write a size, as in `memory=3G`")]
    Relative(String),
    #[error("`{0}` is no number of processors, from 1 to 8192")]
    Cpus(String),
    #[error("`{0}` is said twice")]
    Twice(String),
    #[error("how much memory it has must be said, as in `memory=3G`")]
    NoMemory,
}

/// A machine as a person describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Description {
    /// Bytes.
    pub(crate) memory: u64,
    /// Bytes.
    pub(crate) swap: Option<u64>,
    /// Processors.
    pub(crate) cpus: Option<u32>,
    /// Bytes that are there for containers.
    pub(crate) disk: Option<u64>,
}

impl Description {
    /// As what containers are held against; what is not said of it is not looked at.
    pub(crate) fn machine(&self) -> Machine {
        Machine {
            memory: self.memory,
            swap: self.swap.unwrap_or(0),
            cpus: self
                .cpus
                .and_then(|cpus| u16::try_from(cpus).ok())
                .map(Numbers::first),
            disk: FileSystem {
                size: self.disk,
                ..FileSystem::default()
            },
            ..Machine::default()
        }
    }
}

impl FromStr for Description {
    type Err = DescriptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut memory, mut swap, mut cpus, mut disk) = (None, None, None, None);
        for word in text.split(',') {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| DescriptionError::Word(word.into()))?;
            let size = || match value.parse()? {
                Size::Bytes(bytes) => Ok(bytes),
                Size::Share(_) | Size::Unlimited => Err(DescriptionError::Relative(word.into())),
            };
            let before = match key {
                "memory" => memory.replace(size()?).is_some(),
                "swap" => swap.replace(size()?).is_some(),
                "disk" => disk.replace(size()?).is_some(),
                "cpus" => {
                    let count = value.parse().ok().filter(|count| (1..=8192).contains(count));
                    let count = count.ok_or_else(|| DescriptionError::Cpus(value.into()))?;
                    cpus.replace(count).is_some()
                }
                _ => return Err(DescriptionError::Word(word.into())),
            };
            if before {
                return Err(DescriptionError::Twice(key.into()));
            }
        }
        Ok(Self {
            memory: memory.ok_or(DescriptionError::NoMemory)?,
            swap,
            cpus,
            disk,
        })
    }
}

/// This machine; its disk is that which `store` lies on, or will.
pub(crate) fn this(store: &Path) -> Result<Host, HostError> {
    let (memory, swap) = memory()?;
    let disk = disk(store)?;
    // What cannot be limited is not divided either.
    let kept = quota::kept(store).ok().flatten();
    Ok(Host {
        memory,
        swap,
        cpus: numbers("/sys/devices/system/cpu/online").and_then(|cpus| u32::try_from(cpus.count()).ok()),
        processes: processes()?,
        disk: kept.map(|_| disk.free),
        soft_disk: kept == Some(Kind::Project),
        inodes: (kept == Some(Kind::Project) && disk.inodes > 0).then_some(disk.free_inodes),
    })
}

/// What this machine can give, as far as the kernel tells; `devices` are those that are asked for, `roots` the root file systems that
/// may lie elsewhere than in the store.
pub(crate) fn machine<'d>(
    store: &Path,
    devices: impl Iterator<Item = &'d PathBuf>,
    roots: impl Iterator<Item = &'d PathBuf>,
) -> Result<Machine, HostError> {
    let (memory, swap) = memory()?;
    let disk = file_system(store)?;
    // In the store each may be a subvolume of btrfs, with a number of its own.
    let elsewhere = roots
        .filter(|root| !root.starts_with(store))
        .filter_map(|root| Some((root.clone(), file_system(root).ok()?)))
        .filter(|(_, found)| found.device != disk.device);
    Ok(Machine {
        memory,
        swap,
        cpus: numbers("/sys/devices/system/cpu/online"),
        numa_nodes: numbers("/sys/devices/system/node/online"),
        processes: Some(processes()?),
        disk,
        elsewhere: elsewhere.collect(),
        weighs_disks: Some(weighs_disks()),
        open_files: Some(limit("/proc/sys/fs/nr_open")?),
        huge_pages: huge_pages(),
        missing: devices.filter(|device| !device.exists()).cloned().collect(),
        // Without the program that tells it nothing is known of it, and no container has an address.
        network: network::Host::read().unwrap_or_default(),
    })
}

/// The file system that `path` lies on, or will when it is made.
fn file_system(path: &Path) -> Result<FileSystem, HostError> {
    let at = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let found = rustix::fs::stat(at).map_err(|e| HostError::Io {
        path: at.into(),
        source: e.into(),
    })?;
    Ok(FileSystem {
        device: found.st_dev,
        size: Some(disk(path)?.total),
        keeps: quota::kept(path).ok().map(|kept| match kept {
            None => DiskKept::Nothing,
            Some(Kind::Group) => DiskKept::Space,
            Some(Kind::Project) => DiskKept::All,
        }),
    })
}

/// Whether any disk is shared by weight: one that BFQ schedules, or for which `io.cost` is enabled.
pub(crate) fn weighs_disks() -> bool {
    let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut schedulers =
        disks.filter_map(|disk| fs::read_to_string(disk.path().join("queue/scheduler")).ok());
    // Of several that there are the one in brackets counts.
    schedulers.any(|scheduler| scheduler.contains("[bfq]"))
        || fs::read_to_string("/sys/fs/cgroup/io.cost.qos").is_ok_and(|qos| is_enabled(&qos))
}

/// Of the text of `io.cost.qos` (`cgroup-v2.rst`, "IO Interface Files"): a line for each disk.
fn is_enabled(qos: &str) -> bool {
    qos.lines()
        .any(|line| line.split(' ').any(|word| word == "enable=1"))
}

/// The sizes of huge pages, by the names of folders like `hugepages-2048kB`; none where the kernel has none to tell of.
fn huge_pages() -> Option<Vec<u64>> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").ok()?;
    let mut sizes: Vec<u64> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let kib = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
            kib.parse::<u64>().ok()?.checked_mul(1024)
        })
        .collect();
    sizes.sort_unstable();
    Some(sizes)
}

/// A list of processors or nodes, where the kernel has one.
fn numbers(path: &'static str) -> Option<Numbers> {
    let text = fs::read_to_string(path).ok()?;
    text.trim()
        .parse()
        .ok()
        .filter(|numbers: &Numbers| !numbers.is_empty())
}

fn processes() -> Result<u64, HostError> {
    Ok(limit("/proc/sys/kernel/threads-max")?.min(limit("/proc/sys/kernel/pid_max")?))
}

/// Memory and swap of this machine, in bytes.
pub(crate) fn memory() -> Result<(u64, u64), HostError> {
    let path = Path::new("/proc/meminfo");
    let text = text(path)?;
    let of = |what| {
        meminfo(&text, what).ok_or_else(|| HostError::Content {
            path: path.into(),
            what,
        })
    };
    Ok((of("MemTotal")?, of("SwapTotal")?))
}

/// A file system's size and what is free of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    /// Bytes.
    total: u64,
    /// Bytes.
    free: u64,
    /// Inodes; 0 where they are not counted.
    inodes: u64,
    free_inodes: u64,
}

/// The file system that `path` lies on, or will when it is made.
fn disk(path: &Path) -> Result<Room, HostError> {
    let at = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    let found = rustix::fs::statvfs(at).map_err(|e| HostError::Io {
        path: at.into(),
        source: e.into(),
    })?;
    Ok(Room {
        total: found.f_blocks.saturating_mul(found.f_frsize),
        free: found.f_bavail.saturating_mul(found.f_frsize),
        inodes: found.f_files,
        free_inodes: found.f_favail,
    })
}

/// A line of `/proc/meminfo`, which counts in KiB (`proc(5)`), in bytes.
fn meminfo(text: &str, what: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

fn limit(path: &'static str) -> Result<u64, HostError> {
    let path = Path::new(path);
    text(path)?.trim().parse().map_err(|_| HostError::Content {
        path: path.into(),
        what: "a number",
    })
}

fn text(path: &Path) -> Result<String, HostError> {
    fs::read_to_string(path).map_err(|source| HostError::Io {
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions() {
        assert_eq!(
            "memory=3G,cpus=2,disk=200G".parse(),
            Ok(Description {
                memory: 3 << 30,
                swap: None,
                cpus: Some(2),
                disk: Some(200 << 30),
            })
        );
        assert_eq!(
            "swap=0,memory=512M".parse(),
            Ok(Description {
                memory: 512 << 20,
                swap: Some(0),
                cpus: None,
                disk: None,
            })
        );
        for (text, part) in [
            ("", "says nothing of a machine"),
            ("memory", "says nothing"),
            ("memory=3G,", "says nothing"),
            ("memory=3G,ram=2", "`ram=2`"),
            ("memory=3X", "no size"),
            ("memory=10%", "no machine's own"),
            ("memory=unlimited", "no machine's own"),
            ("cpus=2", "how much memory"),
            ("memory=3G,cpus=0", "no number of processors"),
            ("memory=3G,cpus=1.5", "no number of processors"),
            ("memory=3G,memory=4G", "said twice"),
        ] {
            let error = text.parse::<Description>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn disks_that_are_shared_by_weight() {
        for (qos, expected) in [
            ("", false),
            ("254:0 enable=0 ctrl=auto rpct=0.00\n", false),
            (
                "8:0 enable=0 ctrl=auto\n254:0 enable=1 ctrl=user rpct=0.00\n",
                true,
            ),
        ] {
            assert_eq!(is_enabled(qos), expected, "{qos}");
        }
    }

    #[test]
    fn lines_of_meminfo() {
        let text = "MemTotal:        3072000 kB\nMemFree:  1 kB\nSwapTotal:             0 kB\nHugePages_Total:       0\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(3_072_000 << 10));
        assert_eq!(meminfo(text, "SwapTotal"), Some(0));
        for bad in ["Mem", "Swap", "HugePages_Total"] {
            assert_eq!(meminfo(text, bad), None, "{bad}");
        }
    }

    #[test]
    fn this_machine() {
        let nothing = PathBuf::from("/none/at/all");
        // The first is where the store would be, the second where nobody has one.
        let (here, there) = (PathBuf::from("/none/root"), PathBuf::from("/proc"));
        let devices = [&nothing, &"/dev/null".into()];
        let machine = machine(&nothing, devices.into_iter(), [&here, &there].into_iter()).unwrap();
        assert_eq!(machine.missing, [nothing].into());
        assert_eq!(machine.elsewhere.keys().collect::<Vec<_>>(), [&there]);
        let proc = machine.elsewhere.get(&there).unwrap();
        assert!(
            proc.device != machine.disk.device && proc.size == Some(0),
            "{proc:?}"
        );
        assert_eq!(machine.disk.size, Some(disk(Path::new("/")).unwrap().total));
        assert!(machine.cpus.is_some_and(|cpus| cpus.count() > 0) && machine.open_files > Some(0));
        let host = this(Path::new("/none/at/all")).unwrap();
        assert!(host.memory > 0 && host.processes > 0 && host.cpus > Some(0));
        assert_eq!(
            disk(Path::new("/none")).unwrap().total,
            disk(Path::new("/")).unwrap().total
        );
    }
}

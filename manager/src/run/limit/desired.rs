//! What has to be in which file for a definition's limits. Pure, but for [`Host::read`].

use super::standing::{Guarantee, Standing};
use super::{Held, LimitError, Setting};
use crate::definition::{Limits, MOST_INSTANCES, Rlimit, SoftHard};
use crate::host;
use crate::quantity::{Limit, Percent, Size};
use oci_spec::OciSpecError;
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};
use rustix::fs::{FileType, major, minor, stat};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The kernel counts memory of a cgroup in pages, and rounds down.
const PAGE: u64 = 4096;
/// The period of `cpu.max`, in microseconds; the kernel's own.
const CPU_PERIOD: u64 = 100_000;

/// What limits are measured against.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Host {
    /// Memory, in bytes.
    pub(crate) memory: u64,
    /// Swap, in bytes.
    pub(crate) swap: u64,
    /// Its processors, present or not, as in `0-3`.
    pub(crate) cpus: String,
    /// Its NUMA nodes, present or not.
    pub(crate) nodes: String,
    /// The sizes of its huge pages, in bytes.
    pub(crate) pages: Vec<u64>,
    /// The numbers of the disks that are limited.
    pub(crate) disks: BTreeMap<PathBuf, (u32, u32)>,
}

impl Host {
    /// This host, and of its disks those that the limits name.
    pub(crate) fn read(limits: &Limits) -> Result<Self, LimitError> {
        let (memory, swap) = host::memory()?;
        // A kernel without huge pages has no such folder.
        let pages = fs::read_dir("/sys/kernel/mm/hugepages")
            .into_iter()
            .flatten()
            .flatten();
        let mut pages: Vec<_> = pages
            .filter_map(|entry| {
                let name = entry.file_name();
                let kib = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
                kib.parse::<u64>().ok()?.checked_mul(1024)
            })
            .collect();
        pages.sort_unstable();
        let disk = |path: &PathBuf| {
            disk(path)
                .map(|disk| (path.clone(), disk))
                .map_err(|source| LimitError::Device {
                    device: path.clone(),
                    source,
                })
        };
        Ok(Self {
            memory,
            swap,
            cpus: possible("cpu"),
            nodes: possible("node"),
            pages,
            disks: limits
                .io
                .iter()
                .map(|limit| disk(&limit.device))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// All processors or nodes that there can be.
fn possible(what: &str) -> String {
    let text = fs::read_to_string(format!("/sys/devices/system/{what}/possible"));
    text.map_or_else(|_| "0".into(), |text| text.trim().into())
}

/// The number of a block device; of a partition that of its disk, which alone the kernel limits.
fn disk(path: &Path) -> io::Result<(u32, u32)> {
    let found = stat(path)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::BlockDevice {
        return Err(io::Error::from_raw_os_error(
            rustix::io::Errno::NOTBLK.raw_os_error(),
        ));
    }
    let numbers = (major(found.st_rdev), minor(found.st_rdev));
    let node = PathBuf::from(format!("/sys/dev/block/{}:{}", numbers.0, numbers.1));
    if !node.join("partition").exists() {
        return Ok(numbers);
    }
    // A partition's folder is in its disk's.
    let whole = fs::canonicalize(&node)?.join("../dev");
    numbers_of(&fs::read_to_string(whole)?)
        .ok_or_else(|| io::Error::other("its disk cannot be found in /sys"))
}

/// `MAJOR:MINOR`.
fn numbers_of(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// All files of the container's cgroup that limits are about, those without a limit included.
pub(super) fn desired(limits: &Limits, host: &Host) -> Held {
    let mut settings = Vec::new();
    let mut add = |key: &str, file: &str, text: String, usual: &str| {
        settings.push(Setting {
            key: key.into(),
            file: file.into(),
            usual: text == usual,
            text,
        });
    };
    let bytes = |size: Size, whole: u64| match size.of(whole) {
        Limit::At(bytes) => Limit::At(bytes - bytes % PAGE),
        Limit::Unlimited => Limit::Unlimited,
    };
    let guarantee = Guarantee {
        min: bytes(limits.memory_guarantee, host.memory),
        low: bytes(limits.memory_soft_guarantee, host.memory),
    };
    // What slows it down before what ends its processes: a limit that is lowered meets less to end.
    for (key, file, limit, usual) in [
        ("memory_guarantee", "memory.min", guarantee.min, "0"),
        ("memory_soft_guarantee", "memory.low", guarantee.low, "0"),
        (
            "memory_barrier",
            "memory.high",
            bytes(limits.memory_barrier, host.memory),
            "max",
        ),
        (
            "memory_limit",
            "memory.max",
            bytes(limits.memory_limit, host.memory),
            "max",
        ),
        (
            "swap_limit",
            "memory.swap.max",
            bytes(limits.swap_limit, host.swap),
            "max",
        ),
        ("processes", "pids.max", limits.processes, "max"),
    ] {
        add(key, file, kernel(limit), usual);
    }
    add(
        "cpu_weight",
        "cpu.weight",
        limits.cpu_weight.get().to_string(),
        "100",
    );
    add("cpu_limit", "cpu.max", cpu_max(limits.cpu_limit), "max 100000");
    // The kernel takes no list back from who has processes (cpuset's `validate_change`): all that there can ever be is the same.
    for (key, file, numbers, all) in [
        ("cpus", "cpuset.cpus", &limits.cpus, &host.cpus),
        ("numa_nodes", "cpuset.mems", &limits.numa_nodes, &host.nodes),
    ] {
        let said = numbers.to_string();
        add(key, file, if said.is_empty() { all.clone() } else { said }, all);
    }
    let weight = limits.io_weight.get();
    add(
        "io_weight",
        "io.weight",
        format!("default {weight}"),
        "default 100",
    );
    add(
        "io_weight",
        "io.bfq.weight",
        format!("default {}", bfq_weight(weight)),
        "default 100",
    );
    add("io_limits", "io.max", io_max(limits, host), "");
    let asked = limits.hugepages.keys().map(|page| page.bytes());
    let mut pages: Vec<_> = host.pages.iter().copied().chain(asked).collect();
    pages.sort_unstable();
    pages.dedup();
    for page in pages {
        let said = limits.hugepages.iter().find(|(size, _)| size.bytes() == page);
        let limit = said.map_or(Limit::Unlimited, |(_, size)| match size.of(host.memory) {
            Limit::At(bytes) => Limit::At(bytes - bytes % page),
            Limit::Unlimited => Limit::Unlimited,
        });
        let name = page_name(page);
        // With reservations counted as well a mapping fails, and no process is ended when it touches it.
        for file in ["max", "rsvd.max"] {
            add(
                &format!("hugepages {name}"),
                &format!("hugetlb.{name}.{file}"),
                kernel(limit),
                "max",
            );
        }
    }
    let buffer = |size: Option<Size>| size.and_then(|size| size.of(host.memory).at());
    Held {
        settings,
        standing: Standing {
            guarantee,
            cpu: limits.cpu_weight,
            io: limits.io_weight,
        },
        tcp: [buffer(limits.tcp_receive_buffer), buffer(limits.tcp_send_buffer)],
        // A tmpfs that had no limit cannot be given one later.
        score: limits.oom_score_adj,
        inotify: limits.inotify_instances.at().unwrap_or(MOST_INSTANCES),
        shm: limits.shm.of(host.memory).at().unwrap_or(host.memory),
    }
}

/// A limit as cgroup files have it.
fn kernel(limit: Limit) -> String {
    limit.at().map_or_else(|| "max".into(), |at| at.to_string())
}

fn cpu_max(limit: Option<Percent>) -> String {
    match limit.and_then(|percent| percent.of(CPU_PERIOD)) {
        Some(quota) => format!("{quota} {CPU_PERIOD}"),
        None => format!("max {CPU_PERIOD}"),
    }
}

/// BFQ's weights end at 1000: above the usual 100 they are closer together, as systemd has it.
fn bfq_weight(weight: u16) -> u32 {
    let weight = u32::from(weight);
    if weight <= 100 {
        weight
    } else {
        100 + (weight - 100) * 900 / 9900
    }
}

/// The lines of `io.max` (`cgroup-v2.rst`, "IO Interface Files").
fn io_max(limits: &Limits, host: &Host) -> String {
    let mut text = String::new();
    for limit in &limits.io {
        let Some((major, minor)) = host.disks.get(&limit.device) else {
            continue;
        };
        // Writing to a String does not fail.
        writeln!(
            text,
            "{major}:{minor} rbps={} wbps={} riops={} wiops={}",
            kernel(limit.read_bytes.of(0)),
            kernel(limit.write_bytes.of(0)),
            kernel(limit.read_ops),
            kernel(limit.write_ops)
        )
        .ok();
    }
    text
}

/// The lines that lift what `now` has for devices of which `wanted` says nothing.
pub(super) fn lifted(file: &str, now: &str, wanted: &str) -> String {
    if file != "io.max" {
        return String::new();
    }
    let device = |line: &str| line.split(' ').next().map(String::from);
    let kept: Vec<_> = wanted.lines().filter_map(device).collect();
    let mut text = String::new();
    for device in now.lines().filter_map(device) {
        if numbers_of(&device).is_some() && !kept.contains(&device) {
            // Writing to a String does not fail.
            writeln!(text, "{device} rbps=max wbps=max riops=max wiops=max").ok();
        }
    }
    text
}

/// As the files of the hugetlb controller are called.
fn page_name(page: u64) -> String {
    match page.trailing_zeros() {
        30.. => format!("{}GB", page >> 30),
        20..=29 => format!("{}MB", page >> 20),
        _ => format!("{}KB", page >> 10),
    }
}

/// What can be done where the kernel has no such file.
pub(super) fn remedy_of_missing(file: &str) -> &'static str {
    match file {
        "memory.swap.max" => "swap is not counted here; boot with `swapaccount=1`, or take the key out",
        "io.weight" | "io.bfq.weight" => {
            "its kernel shares no disks by weight; one with CONFIG_BLK_CGROUP_IOCOST or the scheduler bfq does"
        }
        file if file.starts_with("hugetlb.") => {
            "its huge pages have other sizes, /sys/kernel/mm/hugepages lists them"
        }
        _ => "its kernel was built or booted without that controller, see `cgroup_disable=` in /proc/cmdline",
    }
}

/// What can be done where the kernel does not take a value.
pub(super) fn remedy_of_refused(file: &str) -> &'static str {
    match file {
        "cpuset.cpus" => "/sys/devices/system/cpu/online lists the host's processors",
        "cpuset.mems" => "/sys/devices/system/node/has_memory lists the host's nodes",
        "io.max" => "the device has to be a disk, `lsblk --nodeps` lists them",
        _ => "write another value, or take the key out",
    }
}

/// The limits of processes as the runtime takes them.
pub(crate) fn oci_rlimits(limits: &BTreeMap<Rlimit, SoftHard>) -> Result<Vec<PosixRlimit>, OciSpecError> {
    limits
        .iter()
        .map(|(limit, SoftHard { soft, hard })| {
            PosixRlimitBuilder::default()
                .typ(oci_rlimit(*limit))
                .soft(soft.unwrap_or(u64::MAX))
                .hard(hard.unwrap_or(u64::MAX))
                .build()
        })
        .collect()
}

fn oci_rlimit(limit: Rlimit) -> PosixRlimitType {
    match limit {
        Rlimit::As => PosixRlimitType::RlimitAs,
        Rlimit::Core => PosixRlimitType::RlimitCore,
        Rlimit::Cpu => PosixRlimitType::RlimitCpu,
        Rlimit::Data => PosixRlimitType::RlimitData,
        Rlimit::Fsize => PosixRlimitType::RlimitFsize,
        Rlimit::Locks => PosixRlimitType::RlimitLocks,
        Rlimit::Memlock => PosixRlimitType::RlimitMemlock,
        Rlimit::Msgqueue => PosixRlimitType::RlimitMsgqueue,
        Rlimit::Nice => PosixRlimitType::RlimitNice,
        Rlimit::Nofile => PosixRlimitType::RlimitNofile,
        Rlimit::Nproc => PosixRlimitType::RlimitNproc,
        Rlimit::Rss => PosixRlimitType::RlimitRss,
        Rlimit::Rtprio => PosixRlimitType::RlimitRtprio,
        Rlimit::Rttime => PosixRlimitType::RlimitRttime,
        Rlimit::Sigpending => PosixRlimitType::RlimitSigpending,
        Rlimit::Stack => PosixRlimitType::RlimitStack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::Definition;
    use crate::layout::Layout;

    const MIB: u64 = 1 << 20;

    fn limits(text: &str) -> Limits {
        let text = format!("userns = false\n{text}");
        let name = "a".parse().unwrap();
        Definition::parse(&name, Path::new("a.toml"), text.as_bytes(), &Layout::default())
            .unwrap()
            .limits
    }

    fn host() -> Host {
        Host {
            memory: 3072 * MIB,
            swap: 1000 * MIB,
            cpus: "0-7".into(),
            nodes: "0".into(),
            pages: vec![2 * MIB],
            disks: BTreeMap::from([("/dev/sda".into(), (8, 0)), ("/dev/vdb".into(), (254, 16))]),
        }
    }

    /// What is written besides the usual.
    fn held(text: &str) -> String {
        desired(&limits(text), &host()).to_string()
    }

    #[test]
    fn what_is_usual_is_written_as_well() {
        let held = desired(&Limits::default(), &host());
        let all: Vec<_> = held
            .settings
            .iter()
            .map(|setting| format!("{} {:?} {}", setting.file, setting.text, setting.usual))
            .collect();
        assert_eq!(
            all,
            [
                "memory.min \"0\" true",
                "memory.low \"0\" true",
                "memory.high \"max\" true",
                "memory.max \"max\" true",
                "memory.swap.max \"max\" true",
                "pids.max \"max\" true",
                "cpu.weight \"100\" true",
                "cpu.max \"max 100000\" true",
                "cpuset.cpus \"0-7\" true",
                "cpuset.mems \"0\" true",
                "io.weight \"default 100\" true",
                "io.bfq.weight \"default 100\" true",
                "io.max \"\" true",
                "hugetlb.2MB.max \"max\" true",
                "hugetlb.2MB.rsvd.max \"max\" true",
            ]
        );
        assert_eq!(held.standing, Standing::default());
        assert_eq!((held.tcp, held.shm), ([None, None], 64 * MIB));
        assert_eq!(held.to_string(), "no limits");
        assert_eq!(held.for_new().settings, []);
    }

    #[test]
    fn each_key_has_its_file() {
        for (text, files) in [
            ("memory_guarantee = \"48M\"", "memory.min 50331648"),
            ("memory_guarantee = \"unlimited\"", "memory.min max"),
            ("memory_soft_guarantee = 5000", "memory.low 4096"),
            ("memory_soft_guarantee = \"10%\"", "memory.low 322121728"),
            ("memory_barrier = \"131072p\"", "memory.high 536870912"),
            ("memory_limit = \"50%\"", "memory.max 1610612736"),
            ("swap_limit = 0", "memory.swap.max 0"),
            ("swap_limit = \"50%\"", "memory.swap.max 524288000"),
            ("processes = 200", "pids.max 200"),
            ("cpu_weight = 10000", "cpu.weight 10000"),
            ("cpu_limit = 1", "cpu.max 1000 100000"),
            ("cpu_limit = \"12.5%\"", "cpu.max 12500 100000"),
            ("cpu_limit = \"150%\"", "cpu.max 150000 100000"),
            ("cpus = \"0-3,5\"", "cpuset.cpus 0-3,5"),
            ("numa_nodes = 1", "cpuset.mems 1"),
            ("numa_nodes = 0", "no limits"),
            ("io_weight = 50", "io.weight default 50, io.bfq.weight default 50"),
            (
                "io_weight = 10000",
                "io.weight default 10000, io.bfq.weight default 1000",
            ),
            (
                "io_limits = [{ device = \"/dev/vdb\", write_bytes = \"1M\", read_ops = 9 }, { device = \"/dev/sda\" }]",
                "io.max 254:16 rbps=max wbps=1048576 riops=9 wiops=max, 8:0 rbps=max wbps=max riops=max wiops=max",
            ),
            (
                "hugepages = { \"2M\" = \"5M\" }",
                "hugetlb.2MB.max 4194304, hugetlb.2MB.rsvd.max 4194304",
            ),
            (
                "hugepages = { \"1G\" = 0, \"64K\" = \"1M\" }",
                "hugetlb.64KB.max 1048576, hugetlb.64KB.rsvd.max 1048576, hugetlb.1GB.max 0, hugetlb.1GB.rsvd.max 0",
            ),
            (
                "tcp_receive_buffer = \"1M\"\ntcp_send_buffer = 65536",
                "tcp_rmem 1048576, tcp_wmem 65536",
            ),
            // What is not the cgroup's.
            (
                "ptys = 5\nrlimits = { core = 0 }\nshm = \"1M\"\noom_score_adj = 5",
                "no limits",
            ),
        ] {
            assert_eq!(held(text), files, "{text}");
        }
        let shm = |text: &str| desired(&limits(text), &host()).shm;
        assert_eq!(shm("shm = \"1M\""), MIB);
        assert_eq!(shm("shm = \"50%\""), 1536 * MIB);
        assert_eq!(shm("shm = \"unlimited\""), 3072 * MIB);
    }

    #[test]
    fn devices_that_are_not_limited_any_more() {
        let now =
            "8:0 rbps=max wbps=1048576 riops=max wiops=max\n254:16 rbps=1 wbps=max riops=max wiops=max\n";
        assert_eq!(
            lifted("io.max", now, "254:16 rbps=2 wbps=max riops=max wiops=max\n"),
            "8:0 rbps=max wbps=max riops=max wiops=max\n"
        );
        assert_eq!(lifted("io.max", now, "").lines().count(), 2);
        assert_eq!(lifted("io.max", "", ""), "");
        assert_eq!(lifted("cpu.max", "max 100000\n", "1 100000"), "");
    }

    #[test]
    fn what_is_no_disk() {
        for path in ["/dev/null", "/etc", "/dev/no/such"] {
            let limits = limits(&format!("io_limits = [{{ device = \"{path}\" }}]"));
            let error = Host::read(&limits).unwrap_err().to_string();
            assert!(error.contains(path) && error.contains("lsblk"), "{error}");
        }
        let host = Host::read(&Limits::default()).unwrap();
        assert!(host.memory > 64 * MIB, "{host:?}");
    }

    #[test]
    fn limits_of_processes_for_the_runtime() {
        let limits = limits("rlimits = { nofile = \"1024:4096\", core = \"0:unlimited\" }").rlimits;
        assert_eq!(
            serde_json::to_value(oci_rlimits(&limits).unwrap()).unwrap(),
            serde_json::json!([
                { "type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX },
                { "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096 },
            ])
        );
        for (limit, name) in Rlimit::ALL {
            let shown = serde_json::to_value(oci_rlimit(limit)).unwrap();
            assert_eq!(shown, format!("RLIMIT_{}", name.to_uppercase()));
        }
    }
}

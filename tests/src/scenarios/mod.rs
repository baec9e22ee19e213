//! The scenarios: each a function that is given a lab, makes machines in it and
//! says what must hold there.

mod attach_pid;
mod boot;
mod broker_killed;
mod busy_restart;
mod ctm_basic;
mod ctm_boot_ten;
mod ctm_caps;
mod ctm_create;
mod ctm_hostile;
mod ctm_inits;
mod ctm_mounts;
mod ctm_network;
mod ctm_on_plug;
mod ctm_power_cut;
mod ctm_pty;
mod ctm_userns;
mod ctm_verbs;
mod daemon_reload;
mod demo_host;
mod disk_partitions;
mod fast_replug;
mod filter_fails_closed;
mod foreign;
mod foreign_takeover;
mod four_ports;
mod full_disk;
mod granted;
mod hook_only;
mod host_reboot;
mod hostile_container;
mod hub;
mod identical_twins;
mod init_systemd;
mod kept_node;
mod limits_alerts;
mod limits_bite;
mod limits_disk;
mod limits_fifty;
mod limits_hardware;
mod limits_live_set;
mod limits_neighbour;
mod lost_events;
mod machine;
mod minor_reuse;
mod no_window;
mod replug_printer;
mod replug_scanner;
mod rule_alias;
mod serial_stick;
mod slow_udev;
mod stopped_then_started;
mod taken_number;
mod together;
mod usb_fixtures;
mod varlink_cli;

use anyhow::Result;

use crate::vm::Lab;

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name, as in `make scenario NAME=...`.
    pub name: &'static str,
    /// What happens in it, in one line.
    pub about: &'static str,
    /// Runs it; the error says what did not hold.
    pub run: fn(&Lab) -> Result<()>,
}

const fn scenario(name: &'static str, about: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario { name, about, run }
}

/// All scenarios, in the order in which they run: long ones first. A line each, so that two branches merge.
#[rustfmt::skip]
pub const ALL: &[Scenario] = &[
    scenario("broker-killed", "killed before and after each effect in turn, restarted: the same end, nothing left over", broker_killed::run),
    Scenario {
        name: "fast-replug",
        about: "removal and arrival overlap in udev's queue; a device returns under another id",
        run: fast_replug::run,
    },
    Scenario {
        name: "slow-udev",
        about: "udev is held up while another device takes the number",
        run: slow_udev::run,
    },
    Scenario {
        name: "rule-alias",
        about: "an alias that a udev rule set at `add` holds while the device stays",
        run: rule_alias::run,
    },
    Scenario {
        name: "lost-events",
        about: "the receive buffer overflows while devices come and go",
        run: lost_events::run,
    },
    Scenario {
        name: "hook-only",
        about: "the broker does not listen to udev, the hook carries everything",
        run: hook_only::run,
    },
    scenario("busy-restart", "the broker is started again while udev is busy: what is placed stays, what is new waits", busy_restart::run),
    scenario("ctm-basic", "containers, plain and with own users, by ctm and by systemd: closed by default, nothing left", ctm_basic::run),
    scenario("ctm-boot-ten", "ten containers at boot with two devices, in their order; one that fails says why", ctm_boot_ten::run),
    scenario("ctm-create", "base systems shared by two containers, clones, a recipe; interrupted and repeated; a full disk", ctm_create::run),
    scenario("ctm-caps", "one capability more or less and nothing else changes; what cannot count is refused, what is not confined shown", ctm_caps::run),
    scenario("ctm-hostile", "a hostile root in a default container: no known way leads to the host, whatever verb touches its files", ctm_hostile::run),
    scenario("ctm-pty", "a person at a terminal: shell, window, password, full screen, exit codes, hanging up, console", ctm_pty::run),
    scenario("ctm-verbs", "each verb and each exit code, by ctm and by systemd, with a device that stays granted through all", ctm_verbs::run),
    scenario("ctm-inits", "systemd, sysvinit, OpenRC, busybox, a bare program: up, orphans reaped, stopped, rebooted, powered off", ctm_inits::run),
    scenario("ctm-mounts", "binds, memory, a partition by UUID, what the host mounts later, with whose ids; live and by definition; no link leads out", ctm_mounts::run),
    scenario("ctm-network", "addresses routed to containers: reached by all, nobody else's, changed live, nothing sent from others, nothing left", ctm_network::run),
    scenario("ctm-userns", "ranges of their own, whose files are whose, one shifted once, su and ping inside, AppArmor", ctm_userns::run),
    scenario("ctm-on-plug", "a device starts a container and another unit, and takes them with it", ctm_on_plug::run),
    scenario("ctm-power-cut", "the power goes in the middle of create, start, set, destroy: whole or not there, mended by the same commands", ctm_power_cut::run),
    scenario("limits-alerts", "what a container is refused is counted, told to the journal and to a hook, seen by a monitor", limits_alerts::run),
    scenario("limits-memory", "a memory hog, a cache, /dev/shm, huge pages, terminals, files: each stops at its limit; what is kept stays", limits_bite::memory),
    scenario("limits-pids", "a fork bomb has its processes and no more; the neighbour goes on", limits_bite::processes),
    scenario("limits-cpu", "CPU burners have their percentage, their share, their processors", limits_bite::processors),
    scenario("limits-io", "a writer has its bytes and operations a second, lifted under way", limits_bite::disks),
    scenario("limits-hardware", "swap, memory of NUMA nodes, a disk shared by weight, TCP buffers: each bites, and counts at once when it is set", limits_hardware::run),
    scenario("limits-live-set", "every limit is set and taken out while a granted device is being opened: no failure; all or nothing", limits_live_set::run),
    scenario("limits-neighbour", "hog, burner, writer, disk and inode filler, fork bomb in one container; the neighbour's latency before, during, after", limits_neighbour::run),
    scenario("limits-fifty", "50 containers of 48 MiB with an init and a service in a machine of 3 GiB; memory and disk of each", limits_fifty::run),
    scenario("boot", "systemd starts broker and containers with a device plugged in: it is there before their init", boot::boot),
    scenario("shutdown", "the machine goes down with containers running: nothing lands outside, nothing stale after", boot::shutdown),
    scenario("stopped-then-started", "the device comes, goes and moves while the container is stopped", stopped_then_started::stopped_then_started),
    scenario("absent-then-plugged", "the container starts while its device is away", stopped_then_started::absent_then_plugged),
    scenario("attach-pid", "crun's and Podman's containers under the hardened unit: replug, killed broker, detach", attach_pid::run),
    scenario("foreign-takeover", "crun's and Podman's containers whose filters deny: taken over, kept, given back; strangers' refused", foreign_takeover::run),
    scenario("daemon-reload", "systemd reloads and sets properties while a device is being opened: no failure, own and foreign", daemon_reload::run),
    scenario("filter-fails-closed", "pins, program, bpffs are taken away, ctm is killed half way: denied all the same", filter_fails_closed::run),
    scenario("demo-host", "`make demo HOST=1` leaves nothing behind, also when interrupted; or says why it cannot be", demo_host::run),
    scenario("disk-partitions", "a USB disk with two partitions, partitioned anew while plugged in", disk_partitions::run),
    scenario("full-disk", "/var/lib full or read-only, /run full: revoked all the same, reported, made up for when there is room", full_disk::run),
    scenario("four-ports", "four like nodes in shuffled order: each role keeps its permissions", four_ports::run),
    scenario("host-reboot", "permissions set inside are remembered over a reboot of the machine", host_reboot::run),
    scenario("hostile-container", "links, FIFOs, a full /dev and a FUSE that never answers harm nobody else", hostile_container::run),
    scenario("hub", "a granted hub: what comes behind it, two levels down too; pulling it takes all away", hub::run),
    scenario("identical-twins", "two sticks that only their ports tell apart, swapped and replugged", identical_twins::run),
    scenario("init-systemd", "a whole Debian with systemd as its init: device before its first unit, replug, orderly stop", init_systemd::run),
    scenario("kept-node", "a hard link and a descriptor that root inside keeps open nothing after unplug", kept_node::run),
    scenario("limits-disk", "who fills the disk or makes files without end meets its own limit, on ext4, xfs and btrfs; nothing inside gets past it", limits_disk::run),
    scenario("minor-reuse", "another device gets the number: refused inside, however the node came there", minor_reuse::run),
    scenario("no-window", "over 50 replugs a prober inside sees ENOENT or the finished device, nothing between", no_window::run),
    scenario("replug-printer", "a printer comes back as lp1 with the mode, owner and ACL set inside, and prints", replug_printer::run),
    scenario("replug-scanner", "a scanner replugged twenty times on two controllers: true path and alias right", replug_scanner::run),
    scenario("serial-stick", "a stick comes back as ttyUSB1; the alias follows, the other stick is invisible", serial_stick::run),
    scenario("varlink-cli", "every command of devbroker, and varlinkctl, against the daemon under systemd", varlink_cli::run),
    scenario("machine", "commands, files, the probe, installing, a disk that outlives reboots", machine::run),
    scenario("usb-fixtures", "printer, scanner, serial ports, sticks, hub and disk work with real udev", usb_fixtures::run),
];

/// What takes too long for every check: `make soak`, or by its name.
#[rustfmt::skip]
pub const SOAK: &[Scenario] = &[
    scenario("soak-fifty", "fifty whole Debians with systemd, 48 MiB each, in a machine of 3 GiB", limits_fifty::systemd),
];

//! What went wrong elsewhere, and which test shows that it does not go wrong here: the nine faults of the hotplug script of
//! 2008 that this project replaces, and the traps that others fell into.
//!
//! Each entry is a test of the same name (`cargo test -p devbroker-tests --lib fault_`, `trap_`), which fails when one of the
//! tests or scenarios that it names is gone. `scenario traps` prints the table.

use std::fmt::{self, Display};

/// One fault or trap.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// Its name.
    pub name: &'static str,
    /// What goes wrong, in one line.
    pub what: &'static str,
    /// What shows that it does not.
    pub shown_by: &'static [Proof],
}

/// What shows that a trap is handled.
#[derive(Clone, Copy, Debug)]
pub enum Proof {
    /// A scenario in the machine.
    Scenario(&'static str),
    /// A test function: file below the root of the repository, name.
    Test(&'static str, &'static str),
    /// What it is about does not exist yet.
    Later(&'static str),
}

impl Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scenario(name) => write!(f, "make scenario NAME={name}"),
            Self::Test(file, name) => write!(f, "{file} {name}"),
            Self::Later(why) => write!(f, "later: {why}"),
        }
    }
}

use Proof::{Later, Scenario, Test};

const CHAIN: &str = "devbroker/src/daemon/properties/mod.rs";
const HISTORIES: &str = "devbroker/src/daemon/properties/histories.rs";
const PLANNER: &str = "devbroker/src/plan/properties.rs";
const ALIASES: &str = "devbroker/src/policy/tests/alias.rs";
const BELONGS: &str = "devbroker/src/policy/tests/belongs.rs";
const SYSFS: &str = "devbroker/src/host/sysfs/tests.rs";
const EVENTS: &str = "devbroker/tests/root_events.rs";
const DEVFS: &str = "devbroker/tests/root_container/devfs.rs";
const NAMESPACE: &str = "devbroker/tests/root_container/namespace.rs";
const FILTER: &str = "devbroker/tests/root_access/filter.rs";
const TAKEOVER: &str = "devbroker/tests/root_access/takeover.rs";

/// Makes the table, and a test for each of its rows.
macro_rules! traps {
    ($($name:ident: $what:literal => [$($proof:expr),+ $(,)?];)+) => {
        /// All of them.
        pub const ALL: &[Trap] = &[$(Trap { name: stringify!($name), what: $what, shown_by: &[$($proof),+] }),+];

        #[cfg(test)]
        mod shown {
            $(#[test]
            fn $name() {
                super::tests::is_shown(stringify!($name));
            })+
        }
    };
}

traps! {
    // The script of 2008.
    fault_1_permissions_reset_at_each_replug: "owner, group, mode and ACL set inside are lost when the device comes back" => [
        Scenario("replug-printer"), Scenario("four-ports"), Scenario("host-reboot"),
    ];
    fault_2_all_nodes_but_one_forgotten: "of a device with several nodes only one is handled" => [
        Test(HISTORIES, "all_nodes_of_a_device_come_and_go_with_it"), Scenario("replug-printer"), Scenario("four-ports"),
    ];
    fault_3_a_lost_node_never_comes_back: "a node that is missing inside is taken for a device that is not granted" => [
        Test(HISTORIES, "a_node_that_was_lost_inside_comes_back_with_the_device"), Test(PLANNER, "any_history_ends_right"),
    ];
    fault_4_saving_replaces_the_list: "writing down one more device forgets those before it" => [
        Test("devbroker/src/config/edit.rs", "an_alias_and_a_grant_are_added_and_read_back"), Scenario("varlink-cli"),
    ];
    fault_5_stops_at_the_first_absent_device: "devices behind one that is unplugged are not looked at" => [
        Test(HISTORIES, "devices_that_are_away_stop_nothing_behind_them"), Scenario("absent-then-plugged"),
    ];
    fault_6_the_old_number_stays_allowed: "the next device that gets the number is open to the container" => [
        Test(HISTORIES, "the_next_device_with_a_number_is_refused"), Scenario("minor-reuse"), Scenario("slow-udev"),
    ];
    fault_7_two_events_at_once_lose_nodes: "runs that overlap undo each other" => [
        Test(HISTORIES, "what_is_told_at_once_and_twice_loses_nothing"), Test(CHAIN, "any_history_ends_as_the_configuration_says"),
        Scenario("fast-replug"), Scenario("hook-only"),
    ];
    fault_8_follows_the_containers_links_as_root: "the host's root removes along a path that the container can bend" => [
        Test(DEVFS, "a_container_that_races_gets_nothing"), Test(DEVFS, "links_belong_to_the_container_and_only_ours_are_removed"),
        Scenario("hostile-container"),
    ];
    fault_9_configuration_run_as_a_script: "what is written in the configuration is executed by root" => [
        Test("devbroker/src/config/parse/tests.rs", "nothing_in_a_file_is_run"),
        Test("devbroker/src/config/parse/tests.rs", "every_fault_is_shown"),
    ];

    // Events.
    trap_events_before_udevs_rules: "modes, properties and firmware are not there when the kernel tells of a device" => [
        Test(SYSFS, "a_scan_leaves_what_udev_is_not_done_with"), Test(EVENTS, "the_kernel_is_heard_for_removals_alone"),
        Scenario("no-window"),
    ];
    trap_plugged_between_scan_and_listening: "a device that comes while the daemon starts is missed" => [
        Scenario("lost-events"),
    ];
    trap_lost_events_are_ignored: "a full receive buffer costs devices for good" => [
        Test(EVENTS, "events_that_did_not_fit_are_known_to_be_lost"),
        Test(HISTORIES, "a_removal_that_is_told_late_does_not_take_the_next_stay"), Scenario("lost-events"),
    ];
    trap_nothing_is_known_at_removal: "sysfs is empty by then, and the event tells neither vendor nor serial" => [
        Test(CHAIN, "any_history_ends_as_the_configuration_says"), Scenario("replug-printer"),
    ];
    trap_events_without_a_serial: "the event itself has no serial, so a match on it never holds" => [
        Test(SYSFS, "a_serial_stick_with_all_that_is_above_it"), Scenario("serial-stick"),
    ];
    trap_forged_events: "anyone may send a netlink message" => [
        Test(EVENTS, "a_forged_message_is_not_heard"),
        Test("devbroker/src/host/hook.rs", "a_message_arrives_and_only_root_could_send_it"),
    ];
    trap_another_id_after_firmware: "a device comes back at once under another id" => [
        Scenario("fast-replug"),
    ];
    trap_replaced_by_rename: "files and links made beside and renamed are missed by who watches for creation" => [
        Test("devbroker/src/host/watch.rs", "complete_changes_of_configuration_files"),
    ];
    trap_minor_zero: "the first of all devices is taken for none" => [
        Test("devbroker/src/host/event.rs", "minor_zero_counts_and_the_kind_is_the_subsystems"), Scenario("minor-reuse"),
    ];
    trap_a_name_is_the_beginning_of_another: "ttyUSB1 also matches ttyUSB10" => [
        Test("devbroker/src/model/path.rs", "prefixes_end_at_components"), Test("devbroker/src/model/container.rs", "patterns"),
    ];
    trap_properties_gone_at_the_next_event: "what a rule set at the add is not there after bind" => [
        Test("devbroker/src/host/rule_aliases.rs", "what_a_rule_says_once_holds_while_the_device_stays"), Scenario("rule-alias"),
    ];
    trap_a_record_outlives_its_device: "udev's record of the former device is joined to the next one" => [
        Test(EVENTS, "a_scan_while_udev_is_behind_joins_no_old_record_to_the_new_device"),
        Test(SYSFS, "an_event_of_the_former_device_says_nothing_of_the_present_one"), Scenario("slow-udev"),
    ];
    trap_numbers_are_free_before_udev_tells: "the next device has the number while udev still works on the removal" => [
        Test(HISTORIES, "the_next_device_with_a_number_is_refused"), Scenario("slow-udev"), Scenario("minor-reuse"),
    ];
    trap_a_hook_that_takes_its_time: "udev waits for what RUN+= starts, and confines and kills it" => [
        Test("devbroker/src/host/hook.rs", "what_finds_no_room_asks_for_a_scan"),
        Test("devbroker/tests/root_hook.rs", "without_a_daemon_the_hook_succeeds_and_says_nothing"), Scenario("hook-only"),
    ];

    // Identity.
    trap_twins_without_a_serial: "of two like devices the wrong one is taken" => [
        Test(ALIASES, "twins"), Scenario("identical-twins"),
    ];
    trap_a_socket_with_two_names: "one port is another at the other speed" => [
        Test(SYSFS, "a_socket_has_one_name_at_both_speeds"), Test(ALIASES, "both_halves_of_a_hub_are_one"),
    ];
    trap_a_thing_is_more_than_a_node: "a printer or a television stick is a subtree" => [
        Test(BELONGS, "a_printer"), Test(BELONGS, "sound_video_and_television"), Scenario("replug-printer"), Scenario("hub"),
    ];
    trap_the_true_path_is_needed: "programs of libusb open the path that sysfs names, whatever the alias" => [
        Scenario("replug-scanner"),
    ];
    trap_class_events_without_a_vendor: "the event of a printer's class node says nothing of the USB device above it" => [
        Test(SYSFS, "a_serial_stick_with_all_that_is_above_it"), Scenario("replug-printer"),
    ];

    // A node in a container.
    trap_a_tmpfs_of_the_containers_opens_no_device: "a node on a file system of a user namespace cannot be opened" => [
        Test(DEVFS, "a_placed_node_opens_inside_and_is_gone_when_withdrawn"), Scenario("attach-pid"),
    ];
    trap_entering_a_container: "a thread that shares its file system cannot enter, and one that entered cannot mknod" => [
        Test(NAMESPACE, "nodes_open_through_links_in_the_containers_own_dev"), Scenario("attach-pid"),
    ];
    trap_the_containers_root_is_hostile: "links, races and renames inside lead to the host's files" => [
        Test(DEVFS, "a_container_that_races_gets_nothing"), Test("devbroker/src/accounts.rs", "hostile_files_stay_below_the_root"), Scenario("hostile-container"),
    ];
    trap_the_process_was_another: "the container has ended and its pid is someone else's" => [
        Test(NAMESPACE, "an_ended_container_and_the_hosts_dev_are_refused"), Test(TAKEOVER, "the_container_is_gone"),
    ];
    trap_a_moment_with_the_wrong_owner: "a node is open to all between mknod and chown, or the umask cuts its mode" => [
        Test(DEVFS, "a_node_appears_finished_and_goes_in_one_step"), Scenario("no-window"),
    ];
    trap_a_file_system_that_never_answers: "one container's FUSE over /dev holds up everyone" => [
        Test(NAMESPACE, "a_container_that_hangs_holds_up_nobody"), Test(NAMESPACE, "a_fuse_over_dev_is_refused_unasked"),
        Scenario("hostile-container"),
    ];
    trap_the_hosts_own_nodes: "owner or mode of the host's device is changed for the container's sake" => [
        Test(NAMESPACE, "an_ended_container_and_the_hosts_dev_are_refused"), Scenario("replug-printer"),
    ];
    trap_a_bound_node_goes_stale: "what was bind-mounted stays after the unplug" => [
        Scenario("replug-scanner"), Scenario("shutdown"),
    ];
    trap_a_node_kept_under_another_name: "a hard link or a descriptor opens the device that comes next" => [
        Test(DEVFS, "links_and_descriptors_that_the_container_keeps_open_nothing"),
        Test(DEVFS, "a_node_that_was_moved_is_found_and_made_useless"), Scenario("kept-node"),
    ];
    trap_removing_what_is_not_ours: "a node is removed because of its name" => [
        Test(DEVFS, "what_lies_in_the_way_is_named_and_left_alone"), Test(PLANNER, "any_history_ends_right"),
        Test(CHAIN, "any_history_ends_as_the_configuration_says"),
    ];
    trap_reported_but_invisible: "placing succeeded and nothing is seen inside" => [
        Test(NAMESPACE, "nodes_open_through_links_in_the_containers_own_dev"), Scenario("replug-printer"), Scenario("attach-pid"),
    ];
    trap_a_udevd_inside: "the container's own udevd sets mode and group again" => [
        Later("containers with a udevd of their own"),
    ];
    trap_an_ordinary_file_for_a_moment: "before a mount and after it clients open an empty file" => [
        Scenario("no-window"),
    ];
    trap_visible_before_allowed: "a node that is there already answers EPERM" => [
        Scenario("no-window"),
    ];

    // Order.
    trap_revoked_too_late: "the node goes first, and the number is still allowed" => [
        Test(PLANNER, "any_history_ends_right"), Scenario("slow-udev"), Scenario("broker-killed"),
    ];
    trap_open_descriptors_survive: "revoking closes nothing that is open; who holds it has to be told" => [
        Scenario("serial-stick"),
    ];
    trap_two_grants_share_a_node: "taking one away takes it from the other as well" => [
        Test(BELONGS, "two_aliases_for_one_device_both_have_it"), Test(CHAIN, "any_history_ends_as_the_configuration_says"),
    ];

    // Device access.
    trap_programs_are_anded: "adding a program that allows grants nothing" => [
        Test(TAKEOVER, "taken_over_and_given_back"), Scenario("foreign-takeover"),
    ];
    trap_a_forgotten_link_opens_everything: "the program ends with the process that attached it" => [
        Test(FILTER, "losing_the_pins_opens_nothing"), Test(FILTER, "either_attachment_is_enough"),
        Scenario("filter-fails-closed"),
    ];
    trap_a_moment_without_a_filter: "the old program is detached before the new one is there" => [
        Test(TAKEOVER, "killed_after_each_change"), Test(FILTER, "killed_after_each_step"),
    ];
    trap_a_query_that_writes_too_far: "newer kernels write behind a short structure" => [
        Test("devbroker/src/sys/bpf.rs", "a_query_has_room_for_what_newer_kernels_write"),
    ];
    trap_systemd_puts_its_own_back: "after daemon-reload or any property the device is denied" => [
        Test(TAKEOVER, "reasserted"), Scenario("daemon-reload"),
    ];
    trap_two_filters_of_crun: "the scope and the folder below it each have one, by version" => [
        Test("devbroker/src/access/oci.rs", "what_the_version_at_hand_has"), Scenario("foreign-takeover"),
    ];
    trap_a_filter_rebuilt_from_half_of_it: "what others had allowed is gone" => [
        Test("devbroker/src/access/takeover.rs", "what_is_taken_over"), Test(TAKEOVER, "taken_over_and_given_back"),
    ];
    trap_a_container_without_a_filter: "a device that is denied to others is open to it" => [
        Test(TAKEOVER, "an_unconfined_container_stays_so"),
    ];
    trap_lxc_writes_its_filter_anew: "its monitor owns the program" => [Later("LXC")];
    trap_cgroup_v1: "rules are written to devices.allow" => [Later("cgroup v1")];

    trap_killed_half_way: "what was begun is taken for done, or for somebody else's" => [
        Test("devbroker/tests/root_killed.rs", "killed_before_and_after_each_effect"),
        Test(CHAIN, "any_history_ends_as_the_configuration_says"), Scenario("broker-killed"),
    ];

    // Others' ground.
    trap_libudev_inside_hears_nothing: "a database entry and a message are missing inside" => [Later("the udev view inside")];
    trap_cdi_is_read_at_creation: "an absent device keeps a container from starting" => [Later("CDI")];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::{ALL, Proof};
    use crate::scenarios;

    pub(super) fn is_shown(name: &str) {
        let trap = ALL.iter().find(|trap| trap.name == name).unwrap();
        for proof in trap.shown_by {
            match proof {
                Proof::Scenario(scenario) => assert!(
                    scenarios::ALL.iter().any(|one| one.name == *scenario),
                    "{name}: there is no scenario {scenario}"
                ),
                Proof::Test(file, test) => assert!(has_test(file, test), "{name}: {file} has no test {test}"),
                Proof::Later(_) => {
                    assert_eq!(trap.shown_by.len(), 1, "{name}: either it is shown or it is not");
                }
            }
        }
    }

    /// Whether a file has a test function of this name: one with a `test` attribute, or in `proptest!`.
    fn has_test(file: &str, test: &str) -> bool {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let function = format!("fn {test}(");
        let is_it = |line: &&str| line.strip_prefix("async ").unwrap_or(line).starts_with(&function);
        let Some(at) = lines.iter().position(is_it) else {
            return false;
        };
        let mut above = lines[..at]
            .iter()
            .rev()
            .take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        above.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
            || lines[..at].contains(&"proptest! {")
    }

    #[test]
    fn what_is_no_test_is_not_found() {
        assert!(has_test("tests/src/traps.rs", "what_is_no_test_is_not_found"));
        assert!(!has_test("tests/src/traps.rs", "has_test"));
        assert!(!has_test("tests/src/traps.rs", "nothing_of_the_kind"));
    }

    #[test]
    fn names_are_unique_and_all_nine_faults_are_there() {
        let names: BTreeSet<&str> = ALL.iter().map(|trap| trap.name).collect();
        assert_eq!(names.len(), ALL.len());
        for number in 1..=9 {
            assert!(
                names
                    .iter()
                    .any(|name| name.starts_with(&format!("fault_{number}_"))),
                "fault {number}"
            );
        }
    }
}

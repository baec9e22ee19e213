//! The OCI configuration of a container. Pure: a definition goes in, a [`Spec`] comes out.
//!
//! Every device is allowed here: what holds the container is the broker's device program, attached before the first
//! process runs. crun would otherwise attach one of its own, and two programs that both must agree cannot be opened up.

use crate::definition::Definition;
use crate::ids::Ids;
use crate::layout::RunFolder;
use crate::run::limit;
use crate::run::privilege;
use crate::run::seccomp;
use crate::signal::StopSignal;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    BoxBuilder, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDeviceCgroupBuilder, LinuxIdMappingBuilder,
    LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, Mount, MountBuilder,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder, get_default_maskedpaths,
    get_default_readonly_paths,
};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Hidden besides what always is: how much energy the host's processors take tells what they compute.
const MASKED: [&str; 1] = ["/sys/devices/virtual/powercap"];
/// Not to be written to besides what never is: what the kernel says in its log, triggers on the host's load.
const READ_ONLY: [&str; 2] = ["/proc/dynamic_debug", "/proc/pressure"];

fn with(mut paths: Vec<String>, more: &[&str]) -> Vec<String> {
    paths.extend(more.iter().map(ToString::to_string));
    paths
}

/// The configuration with which crun runs `definition`; `cgroup` is below the cgroup v2 mount, `shm` the size of its /dev/shm.
pub(crate) fn spec(
    definition: &Definition,
    run: &RunFolder,
    cgroup: &Path,
    shm: u64,
) -> Result<Spec, OciSpecError> {
    let capabilities = privilege::capabilities(definition.ids, &definition.capabilities);
    let seccomp = seccomp::filter(definition.ids, &capabilities)?;
    let none = HashSet::new();
    let mut process = ProcessBuilder::default()
        .terminal(definition.console)
        .user(UserBuilder::default().uid(0_u32).gid(0_u32).build()?)
        .args(definition.init.clone())
        .env(vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            "container=ctm".into(),
        ])
        .cwd("/")
        .capabilities(
            LinuxCapabilitiesBuilder::default()
                .bounding(capabilities.clone())
                .effective(capabilities.clone())
                .permitted(capabilities)
                .inheritable(none.clone())
                .ambient(none)
                .build()?,
        )
        .rlimits(limit::oci_rlimits(&definition.limits.rlimits)?)
        .oom_score_adj(definition.limits.oom_score_adj.get())
        .no_new_privileges(definition.no_new_privs)
        .build()?;
    if !definition.apparmor.is_empty() {
        process.set_apparmor_profile(Some(definition.apparmor.clone()));
    }
    if definition.console {
        // Until somebody attaches who has another.
        process.set_console_size(Some(BoxBuilder::default().height(24_u64).width(80_u64).build()?));
        if let Some(env) = process.env_mut() {
            env.push("TERM=vt220".into());
        }
    }
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(definition.ids)?)
        .cgroups_path(cgroup)
        .resources(
            LinuxResourcesBuilder::default()
                .devices(vec![
                    LinuxDeviceCgroupBuilder::default()
                        .allow(true)
                        .access("rwm")
                        .build()?,
                ])
                .build()?,
        )
        .sysctl(HashMap::from([(
            "net.ipv4.ping_group_range".to_owned(),
            ping_groups(definition.ids),
        )]))
        .masked_paths(with(get_default_maskedpaths(), &MASKED))
        .readonly_paths(with(get_default_readonly_paths(), &READ_ONLY))
        .seccomp(seccomp);
    if let Ids::Block(block) = definition.ids {
        let mapping = LinuxIdMappingBuilder::default()
            .container_id(0_u32)
            .host_id(block.first)
            .size(block.count)
            .build()?;
        linux = linux.uid_mappings(vec![mapping]).gid_mappings(vec![mapping]);
    }
    let mut spec = SpecBuilder::default()
        .version("1.0.2")
        .root(
            RootBuilder::default()
                .path(definition.rootfs.clone())
                .readonly(false)
                .build()?,
        )
        .hostname(definition.hostname.clone())
        .mounts(mounts(definition, run, shm)?)
        .process(process)
        .linux(linux.build()?)
        .build()?;
    // Nothing is "no domain" to the runtime, an empty one would be set.
    if !definition.domain.is_empty() {
        spec.set_domainname(Some(definition.domain.clone()));
    }
    Ok(spec)
}

/// Where a container finds the first process that reaps for its program.
const REAPER: &str = "/run/.ctm-init";

/// Has the container's program run as a child of `reaper`, a program of the host's that needs nothing from the container.
pub(crate) fn reaped(spec: &mut Spec, reaper: &Path) -> Result<(), OciSpecError> {
    if let Some(process) = spec.process_mut() {
        let mut arguments = vec![REAPER.to_owned()];
        arguments.extend(process.args().iter().flatten().cloned());
        process.set_args(Some(arguments));
    }
    if let Some(mounts) = spec.mounts_mut() {
        // On top of /run, below what the definition mounts.
        let run = Path::new("/run");
        let at = mounts.iter().position(|mount| mount.destination() == run);
        let options = ["bind", "nosuid", "nodev", "ro"];
        mounts.insert(
            at.map_or(mounts.len(), |at| at + 1),
            mount(REAPER, "bind", reaper, &options)?,
        );
    }
    Ok(())
}

/// Files that say what the machine has, for which lxcfs has ones that say what the container has.
pub(crate) const VIEWS: [&str; 7] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
];

/// Has the container see its own limits in these files of /proc, which `folder` has.
pub(crate) fn seen_through(spec: &mut Spec, folder: &Path, files: &[&str]) -> Result<(), OciSpecError> {
    if let Some(mounts) = spec.mounts_mut() {
        let proc = mounts
            .iter()
            .position(|mount| mount.destination() == Path::new("/proc"));
        let at = proc.map_or(0, |at| at + 1);
        for (number, file) in files.iter().enumerate() {
            let options = ["bind", "nosuid", "nodev", "noexec"];
            let view = mount(&format!("/proc/{file}"), "bind", folder.join(file), &options)?;
            mounts.insert(at + number, view);
        }
    }
    Ok(())
}

/// Who may ping without being root, as on a Debian: everybody that there is.
fn ping_groups(ids: Ids) -> String {
    match ids {
        Ids::Host => format!("0 {}", i32::MAX),
        Ids::Block(block) => format!("0 {}", block.count - 1),
    }
}

fn namespaces(ids: Ids) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let mut types = vec![
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Cgroup,
    ];
    if ids != Ids::Host {
        types.push(LinuxNamespaceType::User);
    }
    types
        .into_iter()
        .map(|typ| LinuxNamespaceBuilder::default().typ(typ).build())
        .collect()
}

/// The group that terminals belong to, on every Debian and elsewhere.
pub(crate) const TTY_GROUP: u32 = 5;

/// The file systems below the root one, in the order in which they are mounted. The container's /dev is the folder that
/// the host owns; the bind does not inherit `nosuid` and `noexec`, so they are named.
fn mounts(definition: &Definition, run: &RunFolder, shm: u64) -> Result<Vec<Mount>, OciSpecError> {
    let dev = run.devfs().join("dev");
    let udev = run.udev();
    let mut terminals = ["nosuid", "noexec", "newinstance"].map(String::from).to_vec();
    let options = limit::devpts_options(TTY_GROUP, definition.limits.ptys);
    terminals.extend(options.map(|(key, value)| format!("{key}={value}")));
    let shm = format!("size={shm}");
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "bind", &dev, &["bind", "nosuid", "noexec"])?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &terminals.iter().map(String::as_str).collect::<Vec<_>>(),
        )?,
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm],
        )?,
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])?,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "rw"],
        )?,
        mount(
            "/run",
            "tmpfs",
            "tmpfs",
            &["nosuid", "nodev", "mode=755", "size=20%"],
        )?,
        mount(
            "/run/udev",
            "bind",
            &udev,
            &["bind", "nosuid", "noexec", "nodev", "ro"],
        )?,
    ];
    // systemd would mount these itself, for which it lacks the capability.
    if definition.stop_signal == StopSignal::SYSTEMD {
        all.push(mount(
            "/run/lock",
            "tmpfs",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=5120k"],
        )?);
        all.push(mount(
            "/tmp",
            "tmpfs",
            "tmpfs",
            &["nosuid", "nodev", "mode=1777", "size=50%"],
        )?);
    }
    Ok(all)
}

fn mount(
    destination: &str,
    typ: &str,
    source: impl AsRef<Path>,
    options: &[&str],
) -> Result<Mount, OciSpecError> {
    mount_at(Path::new(destination), typ, source, options)
}

fn mount_at(
    destination: &Path,
    typ: &str,
    source: impl AsRef<Path>,
    options: &[&str],
) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(destination)
        .typ(typ)
        .source(source.as_ref())
        .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::SHM;
    use crate::ids::IdBlock;
    use crate::layout::Layout;
    use serde_json::{Value, json};

    fn made(ids: Ids) -> Value {
        let layout = Layout::default();
        let definition = Definition::new("scan".parse().unwrap(), ids, &layout);
        made_of(&definition)
    }

    fn made_of(definition: &Definition) -> Value {
        let layout = Layout::default();
        let spec = spec(
            definition,
            &layout.run_of(&definition.name),
            Path::new("/ctm/scan/container"),
            SHM,
        )
        .unwrap();
        serde_json::to_value(spec).unwrap()
    }

    fn sorted(list: &Value) -> Vec<String> {
        let mut list: Vec<String> = serde_json::from_value(list.clone()).unwrap();
        list.sort();
        list
    }

    #[test]
    fn a_plain_container() {
        let spec = made(Ids::Host);
        assert_eq!(
            spec["root"],
            json!({ "path": "/var/lib/ctm/scan/rootfs", "readonly": false })
        );
        assert_eq!(spec["process"]["args"], json!(["/sbin/init"]));
        assert_eq!(spec["process"]["noNewPrivileges"], json!(true));
        assert_eq!(spec["linux"]["cgroupsPath"], json!("/ctm/scan/container"));
        assert_eq!(
            spec["linux"]["resources"]["devices"],
            json!([{ "allow": true, "access": "rwm" }])
        );
        assert_eq!(spec["linux"].get("uidMappings"), None);
        let capabilities = sorted(&spec["process"]["capabilities"]["bounding"]);
        for denied in ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_BPF", "CAP_SYS_MODULE"] {
            assert!(!capabilities.iter().any(|name| name == denied), "{denied}");
        }
        assert_eq!(
            capabilities,
            sorted(&spec["process"]["capabilities"]["effective"])
        );
        assert_eq!(
            capabilities,
            sorted(&spec["process"]["capabilities"]["permitted"])
        );
        let call = &spec["linux"]["seccomp"]["syscalls"][0];
        assert_eq!(call["action"], json!("SCMP_ACT_ERRNO"));
        assert_eq!(call["names"][1], json!("bpf"));
        assert_eq!(spec["linux"]["seccomp"]["defaultAction"], json!("SCMP_ACT_ALLOW"));
    }

    #[test]
    fn one_with_a_user_namespace() {
        let spec = made(Ids::Block(IdBlock {
            first: 1_000_000,
            count: 65_536,
        }));
        let mapping = json!([{ "containerID": 0, "hostID": 1_000_000, "size": 65_536 }]);
        assert_eq!(spec["linux"]["uidMappings"], mapping);
        assert_eq!(spec["linux"]["gidMappings"], mapping);
        let types: Vec<_> = spec["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|namespace| namespace["type"].clone())
            .collect();
        assert_eq!(
            json!(types),
            json!(["pid", "mount", "uts", "ipc", "network", "cgroup", "user"])
        );
        assert_eq!(spec["linux"]["seccomp"]["syscalls"][0]["names"][1], json!("bpf"));
    }

    #[test]
    fn dev_is_the_hosts_and_nothing_else_lies_below_it_unasked() {
        let spec = made(Ids::Host);
        let mounts: Vec<_> = spec["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| {
                (
                    mount["destination"].as_str().unwrap().to_owned(),
                    mount["source"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        let expected = [
            ("/proc", "proc"),
            ("/dev", "/run/ctm/scan/devfs/dev"),
            ("/dev/pts", "devpts"),
            ("/dev/shm", "shm"),
            ("/dev/mqueue", "mqueue"),
            ("/sys", "sysfs"),
            ("/sys/fs/cgroup", "cgroup"),
            ("/run", "tmpfs"),
            ("/run/udev", "/run/ctm/scan/udev"),
        ]
        .map(|(at, from)| (at.to_owned(), from.to_owned()));
        assert_eq!(mounts, expected);
        assert_eq!(spec["mounts"][1]["options"], json!(["bind", "nosuid", "noexec"]));
        assert_eq!(spec["linux"].get("devices"), None);
    }

    #[test]
    fn a_program_that_is_no_init_has_ours_as_its_parent() {
        let layout = Layout::default();
        let definition = Definition::new("scan".parse().unwrap(), Ids::Host, &layout);
        let run = layout.run_of(&definition.name);
        let mut spec = spec(&definition, &run, Path::new("/ctm/scan/container"), SHM).unwrap();
        reaped(&mut spec, &layout.reaper).unwrap();
        let spec = serde_json::to_value(spec).unwrap();
        assert_eq!(spec["process"]["args"], json!(["/run/.ctm-init", "/sbin/init"]));
        let mounts = spec["mounts"].as_array().unwrap();
        let at = mounts
            .iter()
            .position(|mount| mount["destination"] == "/run")
            .unwrap();
        assert_eq!(
            mounts[at + 1],
            json!({ "destination": "/run/.ctm-init", "type": "bind", "source": "/usr/lib/ctm/init",
                    "options": ["bind", "nosuid", "nodev", "ro"] })
        );
    }

    /// A definition's changes and nothing else.
    #[test]
    fn capabilities_that_are_given_and_taken() {
        let layout = Layout::default();
        let mut definition = Definition::new("ntp".parse().unwrap(), Ids::Host, &layout);
        let usual = made_of(&definition);
        let set = |spec: &Value| sorted(&spec["process"]["capabilities"]["bounding"]);
        definition.capabilities = vec!["+SYS_TIME".parse().unwrap()];
        let mut expected = set(&usual);
        expected.push("CAP_SYS_TIME".into());
        expected.sort();
        let mut changed = made_of(&definition);
        assert_eq!(set(&changed), expected);
        changed["process"]["capabilities"] = usual["process"]["capabilities"].clone();
        assert_eq!(changed, usual);
        definition.capabilities = ["+SYS_TIME", "-SYS_TIME", "-CHOWN"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let taken = set(&made_of(&definition));
        assert!(
            !taken
                .iter()
                .any(|name| name == "CAP_CHOWN" || name == "CAP_SYS_TIME")
        );
        assert_eq!(taken.len() + 1, set(&usual).len());
    }

    #[test]
    fn mounts_of_the_definition_are_not_the_runtime_s() {
        let layout = Layout::default();
        let text = "userns = false\ndomain = \"example.org\"\nmount = [{ bind = \"/srv/a\", target = \"/a\", read_only = true },\
                    { tmpfs = \"1M\", target = \"/c\" }, { uuid = \"12-34\", target = \"/d\" },\
                    { bind = \"/srv/b\", target = \"/b\", follow = true }, { bind = \"/srv/e\", target = \"/b/e\" }]";
        let definition = Definition::parse(
            &"scan".parse().unwrap(),
            Path::new("x.toml"),
            text.as_bytes(),
            &layout,
        )
        .unwrap();
        let spec = made_of(&definition);
        assert_eq!(spec["domainname"], json!("example.org"));
        assert_eq!(spec["mounts"], made(Ids::Host)["mounts"]);
    }
}

//! Finding the runtime of a container that somebody else started: the state that crun and runc keep of it.
//!
//! crun keeps `ROOT/ID/status`, runc `ROOT/ID/state.json`; both have the first process and its start time, and lead to the
//! bundle with its `config.json`. These folders are root's alone, so what they say is trusted.

use crate::access::oci::Runtime;
use serde::Deserialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the runtimes keep their state: their own default, Docker's and containerd's.
pub const ROOTS: &[&str] = &[
    "/run/crun",
    "/run/runc",
    "/run/docker/runtime-runc/moby",
    "/run/containerd/runc/k8s.io",
    "/run/containerd/runc/default",
];

/// Larger states and configurations are not read.
const LIMIT: u64 = 16 << 20;

/// A container as its runtime knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciContainer {
    /// Its runtime.
    pub runtime: Runtime,
    /// Its name there.
    pub id: String,
    /// Its cgroup below the mount, as the runtime has it; the process may be further down.
    pub cgroup: Option<String>,
    /// Its bundle.
    pub bundle: PathBuf,
}

impl OciContainer {
    /// The bundle's `config.json`.
    pub fn config(&self) -> io::Result<Vec<u8>> {
        read(&self.bundle.join("config.json"))
    }
}

/// The container whose first process is `pid`, if a runtime with its state below one of `roots` started it.
pub fn find(roots: &[PathBuf], pid: i32, start: u64) -> Option<OciContainer> {
    roots
        .iter()
        .filter_map(|root| fs::read_dir(root).ok())
        .flatten()
        .filter_map(Result::ok)
        .find_map(|entry| {
            let id = entry.file_name().into_string().ok()?;
            state(&entry.path(), id).filter(|state| state.pid == pid && state.start == start)
        })
        .map(|state| state.container)
}

/// When a process began: field 22 of its `stat`, in clock ticks since boot.
pub fn start_of(pid: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    start_time(&text).ok_or(io::ErrorKind::InvalidData.into())
}

/// The name in parentheses may hold spaces and parentheses; the last one ends it.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

struct State {
    pid: i32,
    start: u64,
    container: OciContainer,
}

fn state(dir: &Path, id: String) -> Option<State> {
    if let Ok(bytes) = read(&dir.join("status")) {
        return crun(&bytes, id);
    }
    runc(&read(&dir.join("state.json")).ok()?, id)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn crun(bytes: &[u8], id: String) -> Option<State> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Status {
        pid: i32,
        process_start_time: u64,
        cgroup_path: String,
        bundle: PathBuf,
    }
    let status: Status = serde_json::from_slice(bytes).ok()?;
    Some(State {
        pid: status.pid,
        start: status.process_start_time,
        container: OciContainer {
            runtime: Runtime::Crun,
            id,
            cgroup: below_mount(&status.cgroup_path),
            bundle: status.bundle,
        },
    })
}

fn runc(bytes: &[u8], id: String) -> Option<State> {
    #[derive(Deserialize)]
    struct File {
        init_process_pid: i32,
        init_process_start: u64,
        #[serde(default)]
        cgroup_paths: std::collections::BTreeMap<String, String>,
        config: Config,
    }
    #[derive(Deserialize)]
    struct Config {
        labels: Vec<String>,
    }
    let state: File = serde_json::from_slice(bytes).ok()?;
    let bundle = state
        .config
        .labels
        .iter()
        .find_map(|label| label.strip_prefix("bundle="))?;
    Some(State {
        pid: state.init_process_pid,
        start: state.init_process_start,
        container: OciContainer {
            runtime: Runtime::Runc,
            id,
            // On cgroup v2 there is one, under the empty name.
            cgroup: state.cgroup_paths.get("").and_then(|path| below_mount(path)),
            bundle: bundle.into(),
        },
    })
}

/// A cgroup as the runtimes write it, with or without the usual mount point in front.
fn below_mount(path: &str) -> Option<String> {
    let path = path.strip_prefix("/sys/fs/cgroup").unwrap_or(path);
    let fits = path.starts_with('/') && path.len() > 1 && !path.split('/').any(|part| part == "..");
    fits.then(|| path.trim_end_matches('/').into())
}

/// The container's cgroup: what its runtime says if the process is in it or below, else the process's own.
pub fn cgroup(container: Option<&OciContainer>, process: &str) -> String {
    container
        .and_then(|container| container.cgroup.as_deref())
        .filter(|own| {
            process
                .strip_prefix(*own)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .unwrap_or(process)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn states() {
        let dir = tree(&[
            (
                "crun/web/status",
                r#"{"pid":7,"process-start-time":70,"cgroup-path":"/m.slice/web.scope/container","scope":"web.scope","bundle":"/b/web","systemd-cgroup":true}"#,
            ),
            ("crun/half/status", r#"{"pid":7"#),
            ("crun/.x/other", ""),
            (
                "runc/db/state.json",
                r#"{"init_process_pid":8,"init_process_start":80,"cgroup_paths":{"":"/sys/fs/cgroup/m.slice/db.scope"},"config":{"labels":["a=b","bundle=/b/db"]}}"#,
            ),
        ]);
        let roots: Vec<PathBuf> = ["gone", "crun", "runc"]
            .iter()
            .map(|name| dir.path().join(name))
            .collect();
        assert_eq!(
            find(&roots, 7, 70),
            Some(OciContainer {
                runtime: Runtime::Crun,
                id: "web".into(),
                cgroup: Some("/m.slice/web.scope/container".into()),
                bundle: "/b/web".into(),
            })
        );
        assert_eq!(
            find(&roots, 8, 80),
            Some(OciContainer {
                runtime: Runtime::Runc,
                id: "db".into(),
                cgroup: Some("/m.slice/db.scope".into()),
                bundle: "/b/db".into(),
            })
        );
        assert_eq!(find(&roots, 7, 71), None, "another process with that number");
        assert_eq!(find(&roots, 9, 70), None);
    }

    #[test]
    fn cgroups() {
        let container = |cgroup: &str| OciContainer {
            runtime: Runtime::Crun,
            id: "x".into(),
            cgroup: below_mount(cgroup),
            bundle: "/".into(),
        };
        for (own, process, expected) in [
            (
                "/a.scope/container",
                "/a.scope/container/init.scope",
                "/a.scope/container",
            ),
            ("/a.scope", "/a.scope/container", "/a.scope"),
            ("/a", "/ab", "/ab"),
            ("/../a", "/a/b", "/a/b"),
            ("/", "/a/b", "/a/b"),
        ] {
            assert_eq!(
                cgroup(Some(&container(own)), process),
                expected,
                "{own} {process}"
            );
        }
        assert_eq!(cgroup(None, "/x"), "/x");
    }

    #[test]
    fn start_times() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(start_time(stat), Some(4242));
        assert_eq!(start_time("7 (a) S 1"), None);
        assert!(start_of(i32::try_from(std::process::id()).unwrap()).unwrap() > 0);
    }
}

//! Watches over a container that runs: tells the journal and the administrator's hooks when it was refused memory, processes
//! or swap, when the kernel ended one of its processes, and when it waits for longer than its definition allows.
//!
//! What is told is the difference between the kernel's counters and those that were told of; nothing else is remembered.

use crate::definition::{Resource, Thresholds};
use crate::layout::Layout;
use crate::run::cgroup::Cgroup;
use crate::run::console::Console;
use crate::run::hooks::{Hook, Hooks};
use crate::run::usage::field;
use devbroker::model::ContainerName;
use rustix::event::{PollFd, PollFlags};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Of one cause somebody is told no more often than this; what comes between is told together.
const PAUSE: Duration = Duration::from_secs(10);
/// The window of a threshold, in microseconds: the shortest that every kernel takes from everybody.
const WINDOW: u32 = 2_000_000;
/// Where journald takes messages with fields (`systemd.io/JOURNAL_NATIVE_PROTOCOL`).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// What all of these messages have in common.
const MESSAGE_ID: &str = "6b2a5b0d1b7e4e3c9f3d8a54c0e7f219";

/// Why somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// Memory was refused.
    Allocation,
    /// The kernel ended a process, because there was no memory.
    OomKill,
    /// It went over its memory barrier and was slowed down.
    Barrier,
    /// A process could not be made.
    Processes,
    /// Swap was refused.
    Swap,
    /// It waited for too long.
    Pressure(Resource),
}

impl Cause {
    /// Which counter tells: file, key, cause.
    const COUNTED: [(&'static str, &'static str, Self); 5] = [
        ("memory.events", "oom", Self::Allocation),
        ("memory.events", "oom_kill", Self::OomKill),
        ("memory.events", "high", Self::Barrier),
        ("pids.events", "max", Self::Processes),
        ("memory.swap.events", "fail", Self::Swap),
    ];

    fn sentence(self, new: u64) -> String {
        let times = if new == 1 {
            "once".into()
        } else {
            format!("{new} times")
        };
        match self {
            Self::Allocation => format!("was refused memory {times}"),
            Self::OomKill => format!("had a process ended for want of memory {times}"),
            Self::Barrier => format!("was over its memory barrier {times}"),
            Self::Processes => format!("was refused a process {times}"),
            Self::Swap => format!("was refused swap {times}"),
            Self::Pressure(resource) => format!("waited for {resource} longer than it should {times}"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocation => f.write_str("allocation"),
            Self::OomKill => f.write_str("oom-kill"),
            Self::Barrier => f.write_str("barrier"),
            Self::Processes => f.write_str("processes"),
            Self::Swap => f.write_str("swap"),
            Self::Pressure(resource) => write!(f, "{resource}-pressure"),
        }
    }
}

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Alert {
    cause: Cause,
    /// How often since it was told last.
    new: u64,
    /// How often since the container started.
    total: u64,
}

/// What has happened and what of it was told. Pure.
#[derive(Debug, Default)]
struct Told {
    causes: BTreeMap<Cause, (u64, Option<Instant>)>,
}

impl Told {
    /// What has to be told now, of the counters as they are.
    fn due(&mut self, counted: &BTreeMap<Cause, u64>, now: Instant) -> Vec<Alert> {
        let mut due = Vec::new();
        for (cause, total) in counted {
            let (told, at) = self.causes.entry(*cause).or_default();
            let new = total.saturating_sub(*told);
            if new > 0 && at.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE) {
                (*told, *at) = (*total, Some(now));
                due.push(Alert {
                    cause: *cause,
                    new,
                    total: *total,
                });
            }
        }
        due
    }

    /// When there will be something to tell that is held back now.
    fn deadline(&self, counted: &BTreeMap<Cause, u64>) -> Option<Instant> {
        let held_back = counted.iter().filter_map(|(cause, total)| {
            let (told, at) = self.causes.get(cause)?;
            (total > told).then_some((*at)? + PAUSE)
        });
        held_back.min()
    }
}

/// A file that the kernel wakes us with.
#[derive(Debug)]
struct Source {
    name: &'static str,
    /// Of which a threshold was set.
    resource: Option<Resource>,
    file: File,
}

impl Source {
    fn read(&self) -> io::Result<String> {
        let mut buffer = [0; 4096];
        let length = self.file.read_at(&mut buffer, 0)?;
        Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
    }
}

/// The watch over one run.
#[derive(Debug)]
pub(crate) struct Watch {
    sources: Vec<Source>,
    counted: BTreeMap<Cause, u64>,
    told: Told,
    hooks: Vec<Hook>,
}

impl Watch {
    /// Over a container's cgroup. What the kernel does not count is not watched; a threshold that it does not take is told.
    pub(crate) fn over(cgroup: &Cgroup, thresholds: &Thresholds) -> Self {
        let folder = cgroup.folder();
        let mut names: Vec<_> = Cause::COUNTED.iter().map(|(file, _, _)| *file).collect();
        names.dedup();
        let counting = names.into_iter().filter_map(|name| {
            Some(Source {
                name,
                resource: None,
                file: File::open(folder.join(name)).ok()?,
            })
        });
        let waiting = thresholds.iter().filter_map(|(resource, percent)| {
            let path = folder.join(format!("{resource}.pressure"));
            let armed = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .and_then(|mut file| {
                    let stall = WINDOW / 100 * u32::from(*percent);
                    file.write_all(format!("some {stall} {WINDOW}\0").as_bytes())?;
                    Ok(file)
                });
            match armed {
                Ok(file) => Some(Source {
                    name: "",
                    resource: Some(*resource),
                    file,
                }),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the threshold of `pressure` is not watched; does the kernel count pressure (psi=1)?");
                    None
                }
            }
        });
        let mut watch = Self {
            sources: counting.chain(waiting).collect(),
            counted: BTreeMap::new(),
            told: Told::default(),
            hooks: Vec::new(),
        };
        // A counter that was read once wakes us when it changes.
        let counters: Vec<_> = watch
            .sources
            .iter()
            .map(|source| source.resource.is_none())
            .collect();
        watch.read(&counters);
        watch
    }

    /// What to wait for, with `PollFlags::PRI`; in the order of [`Watch::serve`].
    pub(crate) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        self.sources
            .iter()
            .map(|source| PollFd::new(&source.file, PollFlags::PRI))
            .collect()
    }

    /// When to call [`Watch::serve`] though nothing has woken us.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let hooks = self.hooks.iter().map(Hook::deadline);
        hooks.chain(self.told.deadline(&self.counted)).min()
    }

    /// Tells what there is to tell. `ready` says for each of [`Watch::poll_fds`] whether it woke us.
    pub(crate) fn serve(&mut self, ready: &[bool], layout: &Layout, name: &ContainerName, init: Option<i32>) {
        self.read(ready);
        self.reap(name);
        for alert in self.told.due(&self.counted, Instant::now()) {
            self.tell(alert, layout, name, init);
        }
    }

    /// Tells the last that there is, held back or not, and waits for the hooks.
    pub(crate) fn end(&mut self, layout: &Layout, name: &ContainerName, console: &mut Console) {
        let all = vec![true; self.sources.len()];
        // A threshold that did not wake us was not crossed.
        self.sources.retain(|source| source.resource.is_none());
        self.read(&all);
        for (_, at) in self.told.causes.values_mut() {
            *at = None;
        }
        for alert in self.told.due(&self.counted, Instant::now()) {
            self.tell(alert, layout, name, None);
        }
        for mut hook in std::mem::take(&mut self.hooks) {
            if let Err(error) = hook.finish(Some(&mut *console)) {
                tracing::warn!(container = %name, %error);
            }
        }
    }

    fn read(&mut self, ready: &[bool]) {
        let mut ready = ready.iter();
        let counted = &mut self.counted;
        self.sources.retain(|source| {
            if ready.next() != Some(&true) {
                return true;
            }
            // A cgroup that is gone cannot be read, and would wake us for ever.
            let Ok(text) = source.read() else {
                return false;
            };
            if let Some(resource) = source.resource {
                *counted.entry(Cause::Pressure(resource)).or_default() += 1;
            }
            for (_, key, cause) in Cause::COUNTED.iter().filter(|(file, _, _)| *file == source.name) {
                if let Some(total) = field(&text, key) {
                    counted.insert(*cause, total);
                }
            }
            true
        });
    }

    fn reap(&mut self, name: &ContainerName) {
        self.hooks.retain_mut(|hook| match hook.ended() {
            None => true,
            Some(Ok(())) => false,
            Some(Err(error)) => {
                tracing::warn!(container = %name, %error);
                false
            }
        });
    }

    fn tell(&mut self, alert: Alert, layout: &Layout, name: &ContainerName, init: Option<i32>) {
        let Alert { cause, new, total } = alert;
        let message = format!("container {name} {}", cause.sentence(new));
        if to_journal(name, &message, alert).is_err() {
            tracing::warn!("{message}");
        }
        let variables = [
            ("CTM_ALERT", cause.to_string()),
            ("CTM_ALERT_NEW", new.to_string()),
            ("CTM_ALERT_TOTAL", total.to_string()),
            ("CTM_ALERT_TEXT", message),
        ];
        match Hooks::new(layout, name).alert(init, &variables) {
            Ok(started) => self.hooks.extend(started),
            Err(error) => tracing::warn!(container = %name, %error),
        }
    }
}

fn to_journal(name: &ContainerName, message: &str, alert: Alert) -> io::Result<()> {
    let Alert { cause, new, total } = alert;
    // 4: a warning.
    let text = format!(
        "MESSAGE={message}\nMESSAGE_ID={MESSAGE_ID}\nPRIORITY=4\nSYSLOG_IDENTIFIER=ctm\nCTM_NAME={name}\nCTM_ALERT={cause}\n\
         CTM_ALERT_NEW={new}\nCTM_ALERT_TOTAL={total}\n"
    );
    let socket = UnixDatagram::unbound()?;
    // A journal that does not listen must not hold up the container's supervisor.
    socket.set_nonblocking(true)?;
    socket.send_to(text.as_bytes(), JOURNAL).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once_and_not_too_often() {
        let mut told = Told::default();
        let start = Instant::now();
        let counted = |oom, kills| BTreeMap::from([(Cause::Allocation, oom), (Cause::OomKill, kills)]);
        let due = |told: &mut Told, counted: &BTreeMap<Cause, u64>, after| {
            told.due(counted, start + Duration::from_secs(after))
                .into_iter()
                .map(|alert| (alert.cause, alert.new, alert.total))
                .collect::<Vec<_>>()
        };
        assert_eq!(due(&mut told, &counted(0, 0), 0), []);
        assert_eq!(told.deadline(&counted(0, 0)), None);
        assert_eq!(due(&mut told, &counted(1, 0), 1), [(Cause::Allocation, 1, 1)]);
        let now = counted(5, 2);
        assert_eq!(due(&mut told, &now, 2), [(Cause::OomKill, 2, 2)]);
        assert_eq!(told.deadline(&now), Some(start + Duration::from_secs(11)));
        assert_eq!(due(&mut told, &now, 10), []);
        assert_eq!(due(&mut told, &now, 11), [(Cause::Allocation, 4, 5)]);
        assert_eq!(told.deadline(&now), None);
    }

    #[test]
    fn what_is_said() {
        for (cause, word, sentence) in [
            (Cause::Allocation, "allocation", "was refused memory once"),
            (
                Cause::Pressure(Resource::Io),
                "io-pressure",
                "waited for io longer than it should once",
            ),
        ] {
            assert_eq!(
                (cause.to_string().as_str(), cause.sentence(1).as_str()),
                (word, sentence)
            );
        }
        assert_eq!(Cause::Processes.sentence(3), "was refused a process 3 times");
    }

    #[test]
    fn a_cgroup_that_is_gone_is_no_source() {
        let mut watch = Watch::over(
            &Cgroup::at("/nonexistent".as_ref()),
            &Thresholds::from([(Resource::Cpu, 5)]),
        );
        assert!(watch.poll_fds().is_empty() && watch.deadline().is_none());
        watch.read(&[]);
    }
}

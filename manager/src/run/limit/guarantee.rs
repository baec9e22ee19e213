//! Memory that a container keeps, as far up as it has to be said.
//!
//! The kernel protects no more of a cgroup than of the one above it (`cgroup-v2.rst`, "memory.min"). So the unit's has what its
//! container has, and the one that holds all containers has the sum. Those are systemd's, which is told as well: it writes its own
//! values whenever it reads its units anew.

use super::LimitError;
use crate::layout::Layout;
use crate::lock;
use crate::quantity::Limit;
use crate::run::cgroup::{Cgroup, Run};
use crate::service;
use serde::{Deserialize, Serialize};
use std::fs;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[Option<u64>; 2]", into = "[Option<u64>; 2]")]
pub(crate) struct Guarantee {
    /// In any case (`memory.min`).
    pub(super) min: Limit,
    /// Where others have something to give (`memory.low`).
    pub(super) low: Limit,
}

impl Default for Guarantee {
    fn default() -> Self {
        Self {
            min: Limit::At(0),
            low: Limit::At(0),
        }
    }
}

impl From<[Option<u64>; 2]> for Guarantee {
    fn from([min, low]: [Option<u64>; 2]) -> Self {
        let limit = |at: Option<u64>| at.map_or(Limit::Unlimited, Limit::At);
        Self {
            min: limit(min),
            low: limit(low),
        }
    }
}

impl From<Guarantee> for [Option<u64>; 2] {
    fn from(guarantee: Guarantee) -> Self {
        [guarantee.min.at(), guarantee.low.at()]
    }
}

/// The cgroups that are for ctm's containers alone.
const OURS: [&str; 2] = ["/ctm.slice", "/ctm"];

impl Guarantee {
    /// Has the cgroups above the container's keep it as well.
    pub(super) fn settle(self, layout: &Layout, run: &Run) -> Result<(), LimitError> {
        if Self::of(&run.cgroup) == self {
            return Ok(());
        }
        // The sum is read and written by one at a time.
        let _lock = lock::guarantees(layout)?;
        self.give(run, &run.cgroup)?;
        let above = run.cgroup.path().parent().map(Cgroup::at);
        match above {
            Some(above) if OURS.iter().any(|ours| above.path() == std::path::Path::new(ours)) => {
                let below = fs::read_dir(above.folder()).into_iter().flatten().flatten();
                let sum = below
                    .filter_map(|entry| entry.file_name().into_string().ok())
                    .map(|name| Self::of(&above.below(&name)))
                    .fold(Self::default(), Self::plus);
                sum.give(run, &above)
            }
            // An administrator's own slice: what it keeps is the administrator's to say.
            Some(_) | None => Ok(()),
        }
    }

    /// What a cgroup has; one that is gone, or without the controller, has none.
    fn of(cgroup: &Cgroup) -> Self {
        let read = |file: &str| {
            let text = fs::read_to_string(cgroup.folder().join(file)).unwrap_or_default();
            match text.trim() {
                "max" => Limit::Unlimited,
                number => Limit::At(number.parse().unwrap_or_default()),
            }
        };
        Self {
            min: read("memory.min"),
            low: read("memory.low"),
        }
    }

    fn plus(self, other: Self) -> Self {
        let sum = |a: Limit, b: Limit| match (a, b) {
            (Limit::At(a), Limit::At(b)) => a.checked_add(b).map_or(Limit::Unlimited, Limit::At),
            (Limit::Unlimited, _) | (_, Limit::Unlimited) => Limit::Unlimited,
        };
        Self {
            min: sum(self.min, other.min),
            low: sum(self.low, other.low),
        }
    }

    fn give(self, run: &Run, cgroup: &Cgroup) -> Result<(), LimitError> {
        for (key, file, limit) in [
            ("memory_guarantee", "memory.min", self.min),
            ("memory_soft_guarantee", "memory.low", self.low),
        ] {
            let file = cgroup.folder().join(file);
            let text = limit.at().map_or_else(|| "max".to_owned(), |at| at.to_string());
            match fs::write(&file, &text) {
                // It is gone already: nothing is kept for it.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                result => result.map_err(|source| LimitError::Refused {
                    key: key.into(),
                    text,
                    file,
                    source,
                    remedy: "nothing else may be in charge of this cgroup",
                })?,
            }
        }
        let unit = cgroup.path().file_name().and_then(|name| name.to_str());
        if let (true, Some(unit)) = (run.systemd, unit) {
            let word = |limit: Limit| {
                limit
                    .at()
                    .map_or_else(|| "infinity".to_owned(), |at| at.to_string())
            };
            service::set_until_reboot(
                unit,
                &[("MemoryMin", word(self.min)), ("MemoryLow", word(self.low))],
            )?;
        }
        Ok(())
    }
}

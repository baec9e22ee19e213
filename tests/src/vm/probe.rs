//! What the probe saw, watching a path from inside; see `tests/guest/src/bin/probe.rs`.

use std::time::Duration;

use anyhow::{Context, Result};

use super::agent::Job;
use super::machine::Vm;

/// A run of equal outcomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When it was first seen, from the start of watching.
    pub since: Duration,
    /// How many opens in a row had it.
    pub count: u64,
    /// `ok char 180:0 660 0:7`, `EPERM char 180:0 0 0:0`, `ENOENT`, ...
    pub outcome: String,
}

/// A probe at work.
#[derive(Clone, Debug)]
pub struct Watch {
    vm: Vm,
    job: Job,
    until: String,
}

/// Parses the probe's lines.
pub fn parse(text: &str) -> Result<Vec<Sighting>> {
    text.lines()
        .filter(|line| *line != "watching")
        .map(|line| sighting(line).with_context(|| line.to_owned()))
        .collect()
}

fn sighting(line: &str) -> Option<Sighting> {
    let (since, rest) = line.split_once(' ')?;
    let (count, outcome) = rest.split_once(' ')?;
    Some(Sighting {
        since: Duration::from_micros(since.parse().ok()?),
        count: count.parse().ok()?,
        outcome: outcome.to_owned(),
    })
}

impl Vm {
    /// Starts opening `path` every 200 us with `probe`, a command line that runs
    /// the probe where it shall look from (`probe` for the machine itself,
    /// `crun exec c1 probe`, ...). Returns once it watches. `stop_file` is a path
    /// as the machine sees it, `until` the same file as the probe sees it.
    pub fn watch_open(&self, probe: &str, path: &str, stop_file: &str, until: &str) -> Result<Watch> {
        let job = self.start_job(&format!("exec {probe} watch-open '{path}' --until '{until}'"))?;
        job.wait_for("watching\n", super::machine::PATIENCE)?;
        Ok(Watch {
            vm: self.clone(),
            job,
            until: stop_file.to_owned(),
        })
    }
}

impl Watch {
    /// Ends watching and returns all that was seen.
    pub fn stop(self) -> Result<Vec<Sighting>> {
        self.vm.ok(&format!("touch '{}'", self.until))?;
        let output = self.job.wait(super::machine::PATIENCE)?;
        parse(&output.stdout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sightings() {
        let text = "watching\n12 3 ENOENT\n800 1 ok char 180:0 660 0:7\n";
        let expected = vec![
            Sighting {
                since: Duration::from_micros(12),
                count: 3,
                outcome: "ENOENT".to_owned(),
            },
            Sighting {
                since: Duration::from_micros(800),
                count: 1,
                outcome: "ok char 180:0 660 0:7".to_owned(),
            },
        ];
        assert_eq!(parse(text).unwrap(), expected);
        assert!(parse("nonsense").is_err());
    }
}

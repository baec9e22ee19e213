//! Lists and runs scenarios.
//!
//! ```text
//! scenario list
//! scenario run NAME... [--jobs N]
//! scenario all [--jobs N]             the last line is "N passed, N failed"
//! scenario soak [--jobs N]            those that take too long for every check
//! scenario demo                       tells the whole story; the last line is "demo: ok"
//! scenario demo --host [PROGRAMS]     the same on the host itself, with the programs of a folder, or built
//! scenario demo --host-qualifies      says why that cannot be, missing packages apart
//! scenario traps                      what went wrong elsewhere, and what shows that it does not here
//! scenario image                      makes image and saved state
//! scenario shell                      runs the lines of its input in a restored machine
//! ```

use std::env;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use devbroker_tests::demo;
use devbroker_tests::runner::{Bench, programs, select};
use devbroker_tests::scenarios::{ALL, SOAK};
use devbroker_tests::traps;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nowhere else to say it.
            writeln!(io::stderr(), "scenario: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let mut names: Vec<String> = env::args().skip(1).collect();
    let mut jobs = 1;
    if let Some(at) = names.iter().position(|word| word == "--jobs") {
        let words: Vec<String> = names.drain(at..names.len().min(at + 2)).collect();
        jobs = words
            .get(1)
            .and_then(|number| number.parse().ok())
            .context("--jobs wants a number")?;
    }
    let mut out = io::stdout();
    if names.is_empty() {
        bail!("what to do? list, run NAME... [--jobs N], all [--jobs N], soak, demo, traps, image or shell");
    }
    let verb = names.remove(0);
    match verb.as_str() {
        "list" => {
            for scenario in ALL.iter().chain(SOAK) {
                writeln!(out, "{:24} {}", scenario.name, scenario.about)?;
            }
            Ok(true)
        }
        "run" | "all" | "soak" => {
            if verb == "run" && names.is_empty() {
                bail!("which scenario? `scenario list` names them");
            }
            let scenarios = if verb == "soak" {
                SOAK.to_vec()
            } else {
                select(&names)?
            };
            let tally = Bench::prepare(&mut out)?.run(&scenarios, jobs, &mut out)?;
            writeln!(out, "{} passed, {} failed", tally.passed, tally.failed)?;
            Ok(tally.failed == 0)
        }
        "demo" if names.first().is_some_and(|word| word == "--host") => demo::on_host(
            || names.get(1).map_or_else(programs, |folder| Ok(folder.into())),
            &mut out,
        ),
        "demo" if names.first().is_some_and(|word| word == "--host-qualifies") => {
            demo::host_qualifies(&mut out)
        }
        "demo-inside" => demo::inside(&names, &mut out).map(|()| true),
        "demo" => demo::run(&Bench::prepare(&mut io::sink())?.lab("demo")?, &mut out).map(|()| true),
        "traps" => {
            for trap in traps::ALL {
                writeln!(out, "{}: {}", trap.name, trap.what)?;
                for proof in trap.shown_by {
                    writeln!(out, "    {proof}")?;
                }
            }
            Ok(true)
        }
        "image" => Bench::prepare(&mut out).map(|_| true),
        "shell" => shell(&mut out).map(|()| true),
        other => bail!("no such verb: {other}"),
    }
}

fn shell(out: &mut impl Write) -> Result<()> {
    let lab = Bench::prepare(out)?.lab("shell")?;
    let vm = lab.restore()?;
    writeln!(
        out,
        "programs are in /shared; a container root is /srv/rootfs; end with EOF"
    )?;
    for line in io::stdin().lock().lines() {
        let output = vm.run(&line?)?;
        write!(out, "{}{}", output.stdout, output.stderr)?;
        if output.status != 0 {
            writeln!(out, "[status {}]", output.status)?;
        }
        out.flush()?;
    }
    Ok(())
}

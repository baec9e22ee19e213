//! `make bench`: see [`devbroker_tests::bench`].
//!
//! ```text
//! bench [--replugs N] [--events N] [--starts N] [--devbroker PROGRAM] [--ctm PROGRAM] [--json FILE]
//! ```

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use devbroker_tests::bench::{self, Options};

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let own: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = bench::inside(&own)
        .unwrap_or_else(|| options(&words).and_then(|options| bench::run(&options, &mut io::stdout())));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nowhere else to say it.
            writeln!(io::stderr(), "bench: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn options(words: &[String]) -> Result<Options> {
    let program = env::current_exe().context("find this program")?;
    let built = program.parent().context("this program lies in no folder")?;
    let mut options = Options {
        replugs: 1000,
        events: 2000,
        devbroker: built.join("devbroker"),
        ctm: built.join("ctm"),
        starts: 50,
        json: built.parent().unwrap_or(built).join("bench.json"),
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--replugs" => options.replugs = value.parse().context("--replugs takes a number")?,
            "--events" => options.events = value.parse().context("--events takes a number")?,
            "--devbroker" => options.devbroker = PathBuf::from(value),
            "--starts" => options.starts = value.parse().context("--starts takes a number")?,
            "--ctm" => options.ctm = PathBuf::from(value),
            "--json" => options.json = PathBuf::from(value),
            _ => bail!(
                "bench [--replugs N] [--events N] [--starts N] [--devbroker PROGRAM] [--ctm PROGRAM] [--json FILE]"
            ),
        }
    }
    Ok(options)
}

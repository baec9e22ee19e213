//! `make check`: the parts in their order, what each took, and one sum.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::runner::{Bench, Tally, cargo, select};

/// A part of the check, with what came of it.
#[derive(Debug)]
struct Part {
    name: &'static str,
    took: Duration,
    tally: Tally,
}

/// Runs all parts, or those that need neither root nor the machine. Says at the
/// end what each took; the last line is the sum, `N passed, N failed`.
pub fn run(fast: bool, jobs: usize, out: &mut (impl Write + Send)) -> Result<bool> {
    let (root, plain): (Vec<String>, Vec<String>) = integration_tests()?
        .into_iter()
        .partition(|name| name.starts_with("root_"));
    let mut parts = vec![
        part("format", out, |out| step(&["fmt", "--all", "--check"], out))?,
        part("lints", out, |out| {
            step(
                &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
                out,
            )
        })?,
        part("tests", out, |out| {
            let arguments = ["test", "--workspace", "--no-fail-fast", "--lib", "--bins"];
            let tests = plain.iter().flat_map(|name: &String| ["--test", name]);
            counted(&arguments.into_iter().chain(tests).collect::<Vec<_>>(), out)
        })?,
        part("doc tests", out, |out| {
            counted(&["test", "--workspace", "--no-fail-fast", "--doc"], out)
        })?,
    ];
    if !fast {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "`make check` needs root; `make check-fast` does not"
        );
        if !root.is_empty() {
            parts.push(part("root tests", out, |out| {
                let tests = root.iter().flat_map(|name: &String| ["--test", name]);
                counted(
                    &["test", "--workspace", "--no-fail-fast"]
                        .into_iter()
                        .chain(tests)
                        .collect::<Vec<_>>(),
                    out,
                )
            })?);
        }
        parts.push(part("scenarios", out, |out| {
            let prepared = Bench::prepare(out);
            prepared.and_then(|bench| bench.run(&select(&[])?, jobs, out))
        })?);
    }
    writeln!(out)?;
    for Part { name, took, tally } in &parts {
        let Tally { passed, failed } = tally;
        writeln!(
            out,
            "{name:12} {:>7.1} s  {passed:>5} passed  {failed:>3} failed",
            took.as_secs_f64()
        )?;
    }
    let sum = |count: fn(&Tally) -> usize| parts.iter().map(|part| count(&part.tally)).sum::<usize>();
    let (passed, failed) = (sum(|tally| tally.passed), sum(|tally| tally.failed));
    writeln!(out, "{passed} passed, {failed} failed")?;
    Ok(failed == 0)
}

/// Times a part. One that cannot run has failed, and the others still run.
fn part<W: Write>(
    name: &'static str,
    out: &mut W,
    run: impl FnOnce(&mut W) -> Result<Tally>,
) -> Result<Part> {
    writeln!(out, "== {name}")?;
    out.flush()?;
    let start = Instant::now();
    let tally = match run(out) {
        Ok(tally) => tally,
        Err(error) => {
            writeln!(out, "{name}: {error:#}")?;
            Tally { passed: 0, failed: 1 }
        }
    };
    Ok(Part {
        name,
        took: start.elapsed(),
        tally,
    })
}

/// A command that passes or fails as a whole.
fn step(arguments: &[&str], out: &mut impl Write) -> Result<Tally> {
    let mut command = cargo(arguments)?;
    let output = command.output().context("cannot run cargo")?;
    if output.status.success() {
        return Ok(Tally { passed: 1, failed: 0 });
    }
    out.write_all(&output.stdout)?;
    out.write_all(&output.stderr)?;
    Ok(Tally { passed: 0, failed: 1 })
}

/// `cargo test`, shown as it runs, with the tests of all its programs counted.
fn counted(arguments: &[&str], out: &mut impl Write) -> Result<Tally> {
    let mut child = cargo(arguments)?
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(Tally { passed, failed }) = summary(&line) {
            tally.passed += passed;
            tally.failed += failed;
        }
        // Of those that pass the sum is enough.
        let quiet =
            line.ends_with("... ok") || line.starts_with("test result: ok") || line.starts_with("running ");
        if !quiet && !line.is_empty() {
            writeln!(out, "{line}")?;
            out.flush()?;
        }
    }
    if !child.wait()?.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// Reads `test result: ok. 12 passed; 0 failed; 0 ignored; ...`.
fn summary(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let part = counts.split("; ").find_map(|part| part.strip_suffix(what));
        part.and_then(|number| number.trim().parse().ok())
    };
    Some(Tally {
        passed: count(" passed")?,
        failed: count(" failed")?,
    })
}

/// The names of all integration tests of the workspace.
fn integration_tests() -> Result<Vec<String>> {
    let mut command = cargo(&["metadata", "--no-deps", "--format-version", "1"])?;
    let output = command.output().context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?;
    Ok(test_targets(&metadata))
}

fn test_targets(metadata: &Value) -> Vec<String> {
    let list = |value: &Value, name: &str| {
        value
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut names: Vec<String> = list(metadata, "packages")
        .iter()
        .flat_map(|package| list(package, "targets"))
        .filter(|target| list(target, "kind").iter().any(|kind| kind == "test"))
        .filter_map(|target| target.get("name").and_then(Value::as_str).map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_counted() {
        let cases = [
            (
                "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s",
                Some((12, 0)),
            ),
            (
                "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured",
                Some((3, 2)),
            ),
            ("test result: nonsense", None),
            ("test parses ... ok", None),
        ];
        for (line, expected) in cases {
            assert_eq!(
                summary(line).map(|tally| (tally.passed, tally.failed)),
                expected,
                "{line}"
            );
        }
    }

    #[test]
    fn integration_tests_are_found() {
        let metadata = json!({ "packages": [{ "targets": [
            { "name": "devbroker", "kind": ["lib"] },
            { "name": "root_hook", "kind": ["test"] },
            { "name": "examples", "kind": ["test"] },
        ] }] });
        assert_eq!(test_targets(&metadata), ["examples", "root_hook"]);
    }
}

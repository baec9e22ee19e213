//! Runs scenarios: builds the programs, makes them visible to machines, runs
//! several scenarios at a time and counts.

use std::any::Any;
use std::env;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::scenarios::{ALL, SOAK, Scenario};
use crate::vm::Lab;
use crate::vm::image::{Image, Suite};
use crate::vm::state::Saved;

/// The triple of the machine; programs that run in any guest are linked statically for it.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The programs that scenarios try, and this one, for scenario demo-host.
const PROGRAMS: [&str; 4] = ["devbroker", "devbroker-hook", "ctm", "scenario"];

/// What is made for the inside of machines and containers.
const GUEST_PROGRAMS: [&str; 2] = ["probe", "attack"];

/// What else is linked statically, as `make build` does it: it runs in containers.
const STATIC: &str = "ctm-init";

/// What is needed to run scenarios.
#[derive(Debug)]
pub struct Bench {
    saved: Saved,
    /// What machines see as `/shared`: as it is now, whatever is built while they run.
    share: Arc<TempDir>,
    logs: PathBuf,
}

/// How many scenarios passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that passed.
    pub passed: usize,
    /// Those that failed.
    pub failed: usize,
}

impl Bench {
    /// Builds the programs, makes image and saved state if they are not there yet.
    pub fn prepare(out: &mut impl Write) -> Result<Self> {
        let target = target_folder()?;
        let suite = Suite::from_environment()?;
        let start = Instant::now();
        let logs = target.join("scenarios");
        let share = Arc::new(linked(&programs()?, &logs)?);
        let built = start.elapsed();
        stage(share.path(), &share.path().join("root"))?;
        let guest = target.join(TRIPLE).join("release");
        let image = Image::ensure(suite)?;
        let imaged = start.elapsed();
        let saved = Saved::ensure(&image, &guest.join("agent"))?;
        writeln!(
            out,
            "{suite}, kernel {}: programs {}, image {}, state {}",
            image.kernel_version()?,
            seconds(built),
            seconds(imaged.saturating_sub(built)),
            seconds(start.elapsed().saturating_sub(imaged))
        )?;
        Ok(Self { saved, share, logs })
    }

    /// A lab of this name.
    pub fn lab(&self, name: &str) -> Result<Lab> {
        Lab::new(self.saved.clone(), Arc::clone(&self.share), &self.logs, name)
    }

    /// Runs scenarios, `jobs` at a time, telling of each as it ends.
    pub fn run(&self, scenarios: &[Scenario], jobs: usize, out: &mut (impl Write + Send)) -> Result<Tally> {
        let queue = Mutex::new(scenarios.iter());
        let results = Mutex::new((Tally::default(), out, Ok(())));
        thread::scope(|scope| {
            for _ in 0..jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some(scenario) = next else { return };
                        let start = Instant::now();
                        let result = self.one(scenario);
                        let (tally, out, written) =
                            &mut *results.lock().unwrap_or_else(PoisonError::into_inner);
                        let told = tell(out, scenario.name, start.elapsed(), &result, &self.logs);
                        match result {
                            Ok(()) => tally.passed += 1,
                            Err(_) => tally.failed += 1,
                        }
                        if told.is_err() {
                            *written = told;
                        }
                    }
                });
            }
        });
        let (tally, _, written) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        written?;
        Ok(tally)
    }

    /// Runs one scenario, and once more where it was the emulator that failed.
    fn one(&self, scenario: &Scenario) -> Result<()> {
        let lab = self.lab(scenario.name)?;
        let result = Self::once(scenario, &lab);
        if result.is_err() && lab.emulator_failed() {
            let lab = self.lab(scenario.name)?;
            lab.log()
                .add("again", "the emulator's kernel died of code that it was patching");
            return Self::once(scenario, &lab);
        }
        result
    }

    /// Runs one scenario on a thread of its own, whose panic is its failure.
    fn once(scenario: &Scenario, lab: &Lab) -> Result<()> {
        let result = thread::scope(|scope| {
            let thread = thread::Builder::new().name(scenario.name.to_owned());
            let ran = thread.spawn_scoped(scope, || {
                let result = (scenario.run)(lab);
                if result.is_err() {
                    lab.post_mortem();
                }
                result
            });
            match ran?.join() {
                Ok(result) => result,
                Err(panic) => bail!("panicked: {}", panic_text(panic.as_ref())),
            }
        });
        if let Err(error) = &result {
            lab.log().add("FAILED", &format!("{error:#}"));
        }
        result
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

fn tell(
    out: &mut impl Write,
    name: &str,
    took: Duration,
    result: &Result<()>,
    logs: &Path,
) -> io::Result<()> {
    match result {
        Ok(()) => writeln!(out, "ok      {name:24} {:>7}", seconds(took))?,
        Err(error) => {
            writeln!(out, "FAILED  {name:24} {:>7}", seconds(took))?;
            for line in format!("{error:#}").lines() {
                writeln!(out, "        {line}")?;
            }
            writeln!(out, "        log: {}", logs.join(format!("{name}.log")).display())?;
        }
    }
    out.flush()
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The scenarios of these names; all that `make check` runs, if there are none.
pub fn select(names: &[String]) -> Result<Vec<Scenario>> {
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    let named = |name: &String| {
        let found = ALL.iter().chain(SOAK).find(|scenario| scenario.name == name);
        found
            .copied()
            .with_context(|| format!("no scenario is named {name}: `make scenarios` lists them"))
    };
    names.iter().map(named).collect()
}

/// Where cargo puts programs: this one lies in `TARGET/PROFILE/`.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let program = env::current_exe().context("where is this program?")?;
    let target = program
        .ancestors()
        .nth(2)
        .context("this program is not in a target folder of cargo's")?;
    Ok(target.to_owned())
}

/// A cargo command in the workspace, for the target folder that this program is in.
pub(crate) fn cargo(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).env("CARGO_TARGET_DIR", target_folder()?);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    Ok(command)
}

/// Builds the programs; answers with the folder that has them.
pub fn programs() -> Result<PathBuf> {
    build()?;
    let target = target_folder()?;
    let share = target.join("scenarios/share");
    fs::create_dir_all(&share)?;
    for program in PROGRAMS {
        install(&target.join("debug").join(program), &share.join(program))?;
    }
    for program in GUEST_PROGRAMS {
        let built = target.join(TRIPLE).join("release").join(program);
        install(&built, &share.join(program))?;
    }
    install(&target.join("release").join(STATIC), &share.join(STATIC))?;
    Ok(share)
}

/// A folder of our own in `folder` with the same programs, which others that build them anew leave alone.
fn linked(programs: &Path, folder: &Path) -> Result<TempDir> {
    let own = tempfile::Builder::new().prefix("share-").tempdir_in(folder)?;
    fs::set_permissions(own.path(), Permissions::from_mode(0o755))?;
    for name in PROGRAMS.iter().chain(&GUEST_PROGRAMS).chain([&STATIC]) {
        fs::hard_link(programs.join(name), own.path().join(name))
            .with_context(|| format!("cannot link {name}"))?;
    }
    Ok(own)
}

fn build() -> Result<()> {
    let programs = cargo(&["build", "--quiet", "-p", "devbroker", "-p", "ctm", "--bins"])?;
    // For the machine and for containers, whatever libraries they have.
    let harness = cargo(&["build", "--quiet", "-p", "devbroker-tests", "--bins"])?;
    let mut guest = cargo(&[
        "build",
        "--quiet",
        "--release",
        "-p",
        "devbroker-guest",
        "--bins",
        "--target",
        TRIPLE,
    ])?;
    let flags = r#"["-Ctarget-feature=+crt-static", "-Cstrip=symbols"]"#;
    guest.args(["--config", &format!("target.{TRIPLE}.rustflags={flags}")]);
    let mut init = cargo(&["rustc", "--quiet", "--release", "-p", STATIC, "--bin", STATIC])?;
    init.args(["--", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"]);
    for mut command in [programs, harness, guest, init] {
        let status = command.status().context("cannot run cargo")?;
        ensure!(status.success(), "building the programs failed ({status})");
    }
    Ok(())
}

/// What `make install` installs, for [`crate::vm::Vm::install`].
fn stage(programs: &Path, root: &Path) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(source.join("tests/install.sh"));
    let output = command.args([&source, programs, root]).arg("/usr").output()?;
    ensure!(
        output.status.success(),
        "install.sh failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Copies a program unless the copy is up to date; machines that run keep theirs.
fn install(from: &Path, to: &Path) -> Result<()> {
    let made = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    if let (Ok(built), Ok(copied)) = (made(from), made(to)) {
        if copied >= built {
            return Ok(());
        }
    }
    let partial = to.with_extension("partial");
    // Without what debuggers read it is a tenth of the size, and its way into the machine is slow.
    let status = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .args([partial.as_path(), from])
        .status();
    ensure!(
        status.context("cannot run strip of binutils")?.success(),
        "cannot copy {}",
        from.display()
    );
    fs::rename(&partial, to).with_context(|| format!("cannot make {}", to.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let all = ALL.iter().chain(SOAK);
        let names: BTreeSet<&str> = all.clone().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all.count());
        assert_eq!(select(&["usb-fixtures".to_owned()]).unwrap().len(), 1);
        assert!(select(&["no-such".to_owned()]).is_err());
        assert_eq!(select(&[]).unwrap().len(), ALL.len());
    }
}

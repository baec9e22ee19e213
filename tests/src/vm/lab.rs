//! What a scenario is given: machines, and the programs to try in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tempfile::TempDir;

use super::log::Log;
use super::machine::Vm;
use super::state::Saved;

/// Makes machines for one scenario.
#[derive(Debug)]
pub struct Lab {
    saved: Saved,
    share: Arc<TempDir>,
    folder: PathBuf,
    log: Log,
    started: AtomicU32,
    machines: Mutex<Vec<Vm>>,
}

impl Lab {
    /// A lab whose machines see `share` at `/shared` and that writes its logs to `folder`.
    pub fn new(saved: Saved, share: Arc<TempDir>, folder: &Path, name: &str) -> Result<Self> {
        let log = Log::create(&folder.join(format!("{name}.log")))?;
        Ok(Self {
            saved,
            share,
            folder: folder.join(name),
            log,
            started: AtomicU32::new(0),
            machines: Mutex::default(),
        })
    }

    /// A machine that goes on from the saved state: booted, settled, modules
    /// loaded. What it writes to its disk is forgotten with it.
    pub fn restore(&self) -> Result<Vm> {
        Vm::restore(self)
    }

    /// A machine booted from its disk, which it keeps across [`Vm::reboot`].
    pub fn boot(&self) -> Result<Vm> {
        Vm::boot(self, &[])
    }

    /// The same with these options of QEMU's besides, as in `&["-m", "3G"]`. A restored machine has what the saved one had.
    pub fn boot_with(&self, options: &'static [&'static str]) -> Result<Vm> {
        Vm::boot(self, options)
    }

    /// The scenario's log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Keeps a machine until the scenario's end, for [`Lab::post_mortem`].
    pub(crate) fn keep(&self, vm: &Vm) {
        self.machines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(vm.clone());
    }

    /// Whether a machine ended by a fault of the emulator's and not by ours.
    pub(crate) fn emulator_failed(&self) -> bool {
        let started = self.started.load(Ordering::Relaxed);
        (1..=started).any(|number| {
            fs::read(self.console(number)).is_ok_and(|text| is_emulators(&String::from_utf8_lossy(&text)))
        })
    }

    /// Lets all machines tell their logs what one wants to know after a failure.
    pub(crate) fn post_mortem(&self) {
        for vm in self
            .machines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            vm.post_mortem();
        }
    }

    /// The saved state that machines go on from.
    pub(crate) fn saved(&self) -> &Saved {
        &self.saved
    }

    /// The host's folder that machines see.
    pub(crate) fn share(&self) -> &Path {
        self.share.path()
    }

    /// Where the next machine's console goes: `NAME.1.console`, `NAME.2.console`, ...
    pub(crate) fn next_console(&self) -> PathBuf {
        self.console(self.started.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn console(&self, number: u32) -> PathBuf {
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy();
        self.folder.with_file_name(format!("{name}.{number}.console"))
    }
}

/// Whether the kernel died of code that it was just patching (`text_poke_bp_batch` in `arch/x86/kernel/alternative.c`): one of QEMU's
/// processors may still run the breakpoint that another has taken out, which no real one does and no program brings about.
fn is_emulators(console: &str) -> bool {
    console.contains("Oops: int3:") && console.contains("Kernel panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_a_panic_is() {
        let oops =
            "[    1.319458] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\nRIP: 0010:sched_clock_cpu+0x9/0x1d0\n";
        let panic = "Kernel panic - not syncing: Fatal exception in interrupt\n";
        assert!(is_emulators(&format!("{oops}{panic}")));
        assert!(!is_emulators(oops) && !is_emulators(panic) && !is_emulators(""));
    }
}

//! `ctm-init PROGRAM [ARGUMENT]...`: the first process of a container whose program is no init. It starts the program, passes
//! every signal on to it, takes note of every process that ends, and ends as the program does, with what a shell would say
//! of it. The kernel then ends whatever else runs in the container.
//!
//! It is linked statically and bound into the container, whatever that has in libraries.

mod sys;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};
use sys::{CHILD, Signals};

/// The program is there and cannot be run (`sh`, exit status).
const CANNOT_RUN: u8 = 126;
/// There is no such program.
const NOT_FOUND: u8 = 127;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        return failed("which program? usage: ctm-init PROGRAM [ARGUMENT]...", CANNOT_RUN);
    };
    // Before the program is there: its end must not be missed.
    let signals = match Signals::held() {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("cannot hold signals: {error}"), CANNOT_RUN),
    };
    match started(&program, arguments, &signals) {
        Ok(pid) => stay(&signals, pid),
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound {
                NOT_FOUND
            } else {
                CANNOT_RUN
            };
            failed(
                &format!("cannot run {}: {error}", Path::new(&program).display()),
                code,
            )
        }
    }
}

/// Starts the program, with the signals held back that were.
fn started(program: &OsStr, arguments: impl Iterator<Item = OsString>, signals: &Signals) -> io::Result<i32> {
    let mut command = Command::new(program);
    signals.not_for(command.args(arguments));
    let child = command.spawn()?;
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Passes signals on and reaps until the program has ended.
fn stay(signals: &Signals, program: i32) -> ExitCode {
    loop {
        match signals.next() {
            Ok(CHILD) => {
                // One signal may stand for several ends.
                while let Some((pid, status)) = sys::reap() {
                    if pid == program {
                        return code(ExitStatus::from_raw(status)).into();
                    }
                }
            }
            // That it has just ended shows at the next turn.
            Ok(signal) => drop(sys::send(program, signal)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return failed(&format!("cannot wait for signals: {error}"), CANNOT_RUN),
        }
    }
}

/// As a shell has it: the code, or 128 and the signal's number.
fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn failed(message: &str, code: u8) -> ExitCode {
    // Nobody is left to tell if standard error is closed.
    writeln!(io::stderr(), "ctm-init: {message}").ok();
    code.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_a_shells() {
        for (status, expected) in [(0, 0), (7 << 8, 7), (255 << 8, 255), (9, 137), (15 | 0x80, 143)] {
            assert_eq!(code(ExitStatus::from_raw(status)), expected);
        }
    }
}

//! The test machine's end of the virtio-serial port: runs the commands that the
//! harness sends, several at a time, and reports what they write and how they end.
//!
//! Knows nothing of what is tested. It outlives a saved state: the port then
//! looks closed until the next harness has opened its end.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use devbroker_guest::frame::{Frame, Kind};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The port, written to by the threads of all commands.
#[derive(Clone)]
struct Port(Arc<Mutex<File>>);

impl Port {
    fn send(&self, kind: Kind, id: u64, data: impl Into<Vec<u8>>) {
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a listener there is nobody to tell.
        Frame::new(kind, id, data).write(&mut *port).ok();
    }
}

/// Reads the port; while the host's end is closed, which reads as the end of
/// the file, it waits.
struct Patient(File);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Ok(0) => pause(),
                other => return other,
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a closed virtio port signals POLLHUP all the time and has no event for reopening"
)]
fn pause() {
    thread::sleep(Duration::from_millis(5));
}

/// A command that runs.
struct Running {
    group: Pid,
    input: Sender<Option<Vec<u8>>>,
}

fn main() -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(port_named("agent")?)?;
    let port = Port(Arc::new(Mutex::new(file.try_clone()?)));
    let mut from = BufReader::new(Patient(file));
    let mut running: HashMap<u64, Running> = HashMap::new();
    while let Some(Frame { kind, id, data }) = Frame::read(&mut from)? {
        match kind {
            Kind::Hello => port.send(Kind::Hello, id, data),
            Kind::Run => match start(&port, id, &data) {
                Ok(command) => drop(running.insert(id, command)),
                Err(error) => port.send(Kind::Failed, id, error.to_string()),
            },
            // A command that ended takes no more input; that is its own affair.
            Kind::Stdin => drop(running.get(&id).map(|command| command.input.send(Some(data)))),
            Kind::Eof => drop(running.get(&id).map(|command| command.input.send(None))),
            Kind::Kill => drop(
                running
                    .get(&id)
                    .map(|command| killpg(command.group, Signal::SIGKILL)),
            ),
            Kind::Out | Kind::Err | Kind::Exit | Kind::Failed => {}
        }
    }
    Ok(())
}

/// The kernel's node of a port: udev's link to it comes later than the agent.
fn port_named(wanted: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == wanted {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no virtio port is named {wanted}"),
    ))
}

fn start(port: &Port, id: u64, script: &[u8]) -> io::Result<Running> {
    let script = String::from_utf8_lossy(script).into_owned();
    let mut child = Command::new("/bin/bash")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let (input, inputs) = mpsc::channel();
    let stdin = child.stdin.take();
    thread::spawn(move || feed(stdin, &inputs));
    let port = port.clone();
    thread::spawn(move || {
        if let Err(error) = follow(&port, id, child) {
            port.send(Kind::Failed, id, error.to_string());
        }
    });
    Ok(Running { group, input })
}

fn feed(stdin: Option<impl Write>, inputs: &Receiver<Option<Vec<u8>>>) {
    let Some(mut stdin) = stdin else { return };
    while let Ok(Some(bytes)) = inputs.recv() {
        if stdin.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// Forwards what the command writes. Its end is reported once it has exited and
/// what it had written until then is forwarded; children that it left behind
/// may go on writing.
fn follow(port: &Port, id: u64, mut child: Child) -> io::Result<()> {
    let mut out = child.stdout.take();
    let mut err = child.stderr.take();
    let (ended, mut end) = UnixStream::pair()?;
    thread::spawn(move || {
        let status = child.wait().map_or(i32::MIN, code);
        // The other end goes only after it has read this.
        (&ended).write_all(&status.to_ne_bytes()).ok();
    });
    let mut exited = None;
    while out.is_some() || err.is_some() || exited.is_none() {
        let timeout = match exited {
            Some(Some(_)) => PollTimeout::ZERO,
            Some(None) | None => PollTimeout::NONE,
        };
        let ready = {
            let mut polled: Vec<PollFd<'_>> = Vec::new();
            let fds = [
                out.as_ref().map(AsFd::as_fd),
                err.as_ref().map(AsFd::as_fd),
                exited.is_none().then_some(end.as_fd()),
            ];
            polled.extend(fds.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
            nix::poll::poll(&mut polled, timeout)?;
            let mut answers = polled
                .iter()
                .map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            fds.map(|fd| fd.is_some() && answers.next().unwrap_or(false))
        };
        let [out_ready, err_ready, end_ready] = ready;
        if !out_ready && !err_ready {
            if let Some(Some(status)) = exited {
                port.send(Kind::Exit, id, i32::to_string(&status));
                exited = Some(None);
                continue;
            }
        }
        if out_ready {
            forward(port, Kind::Out, id, &mut out)?;
        }
        if err_ready {
            forward(port, Kind::Err, id, &mut err)?;
        }
        if end_ready {
            let mut status = [0; 4];
            end.read_exact(&mut status)?;
            exited = Some(Some(i32::from_ne_bytes(status)));
        }
    }
    if let Some(Some(status)) = exited {
        port.send(Kind::Exit, id, status.to_string());
    }
    Ok(())
}

fn forward(port: &Port, kind: Kind, id: u64, from: &mut Option<impl Read>) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let length = from.as_mut().map_or(Ok(0), |stream| stream.read(&mut buffer))?;
    if length == 0 {
        *from = None;
    } else {
        buffer.truncate(length);
        port.send(kind, id, buffer);
    }
    Ok(())
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| -signal))
        .unwrap_or(i32::MIN)
}

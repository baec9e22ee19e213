//! What tests on the real kernel are given: a namespace of their own with a pure cgroup v2 view, a bpffs, empty /run, /var/lib
//! and /etc/ctm, and a small root file system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BUSYBOX: &str = "/bin/busybox";

/// Runs a shell script with `ctm` and `$ROOTFS`, a small root file system, in a namespace of its own.
fn script(text: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let rootfs = dir.path().join("rootfs");
    rootfs_at(&rootfs);
    let bin = Path::new(env!("CARGO_BIN_EXE_ctm")).parent().unwrap();
    let prologue = "set -eu\n\
        umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; mount -t bpf bpf /sys/fs/bpf\n\
        mount -t tmpfs run /run; mount -t tmpfs lib /var/lib; mkdir -p /etc/ctm; mount -t tmpfs etc /etc/ctm
        [ ! -d /usr/lib/ctm ] || mount -t tmpfs none /usr/lib/ctm\n";
    // The limit only ends a test that hangs.
    Command::new("timeout")
        .args([
            "--kill-after=5",
            "240",
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
        ])
        .arg(format!("{prologue}{text}"))
        .env("ROOTFS", &rootfs)
        .env("TMP", dir.path())
        .env("TYPIST", TYPIST)
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()))
        .output()
        .unwrap()
}

/// Runs a script that must succeed; answers with what it printed. The container `box` is called `name`, as cgroups are not
/// the namespace's own.
#[track_caller]
pub(crate) fn printed(name: &str, text: &str) -> String {
    let output = script(&text.replace("box", name));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{}\n--- stdout\n{out}\n--- stderr\n{err}",
        output.status
    );
    out.replace(name, "box")
}

fn rootfs_at(root: &Path) {
    for folder in ["bin", "dev", "proc", "sys", "run", "tmp", "etc", "root", "home"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let busybox = [BUSYBOX, "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
        .expect("busybox is missing: install busybox-static");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "sleep", "cat", "env", "head", "id", "ls", "stat", "stty", "mknod", "touch", "true", "trap",
        "tty", "kill", "yes", "mkdir", "ln",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home:/bin/none\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nlp:x:7:ann\n").unwrap();
}

/// `python3 -c "$TYPIST" ROWS COLUMNS STEP... -- COMMAND...`: a person at a terminal. A step is `?text` to wait for, `!text` to
/// type, `=ROWS,COLUMNS` to resize the window, or `-NUMBER` to send ctm a signal. Prints how it ended, and whether the terminal
/// is as before.
const TYPIST: &str = r"
import os, sys, struct, fcntl, termios, select, time
words = sys.argv[1:]; cut = words.index('--'); command = words[cut+1:]
size = lambda fd, rows, columns: fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', int(rows), int(columns), 0, 0))
master, slave = os.openpty()
size(slave, words[0], words[1])
before = termios.tcgetattr(slave)
pid = os.fork()
if pid == 0:
    os.setsid(); fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in 0, 1, 2: os.dup2(slave, fd)
    os.close(master); os.execvp(command[0], command)
seen = ''
for step in words[2:cut]:
    step = step.encode().decode('unicode_escape')
    if step[0] == '!': os.write(master, step[1:].encode())
    if step[0] == '=': size(master, *step[1:].split(','))
    if step[0] == '-': os.kill(pid, int(step[1:]))
    if step[0] == '?':
        end = time.time() + 20
        while step[1:] not in seen:
            if not select.select([master], [], [], max(0, end - time.time()))[0]:
                sys.exit('waited in vain for %r: %r' % (step, seen))
            seen += os.read(master, 4096).decode(errors='replace')
        seen = seen[seen.index(step[1:]) + len(step) - 1:]
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(status, 'as before' if termios.tcgetattr(slave) == before else 'changed')
";

//! The machine itself: commands, files, the probe, installing, and a disk that
//! outlives reboots.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::vm::{Lab, Vm};

const SOON: Duration = Duration::from_secs(20);

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    commands(&vm)?;
    probe(&vm)?;
    container_root(&vm)?;

    let vm = lab.boot()?;
    vm.install()?;
    vm.ok("systemctl cat devbroker.service >/dev/null && sync")?;
    completions(&vm)?;
    vm.reboot()?;
    vm.ok("devbroker --version && systemctl cat devbroker.service >/dev/null && touch /root/seen && sync")?;
    vm.power_cut()?;
    vm.power_on()?;
    vm.ok("test -e /root/seen && ! systemctl is-failed agent")
        .map(drop)
}

fn commands(vm: &Vm) -> Result<()> {
    let output = vm.run("echo out; echo err >&2; exit 3")?;
    ensure!(
        (output.status, &*output.stdout, &*output.stderr) == (3, "out\n", "err\n"),
        "{output:?}"
    );
    ensure!(vm.run("kill -9 $$")?.status == -9);
    // What is left in the background does not hold up the command.
    ensure!(vm.ok("sleep 1000 & echo done")? == "done");
    let content = "a line\n".repeat(100_000);
    vm.put("/run/test/file", &content)?;
    ensure!(vm.get("/run/test/file")? == content);
    let job = vm.start_job("read line; echo got $line; exec sleep 1000")?;
    job.write(b"this\n")?;
    job.wait_for("got this", SOON)?;
    ensure!(job.running() && job.kill()?.status == -9);
    let late = vm.start_job("sleep 0.1; touch /run/test/late; sleep 0.1; rm /run/test/late")?;
    vm.until("test -e /run/test/late || ! test -e /proc/self")?;
    vm.wait_gone("/run/test/late")?;
    ensure!(late.wait(SOON)?.success());
    ensure!(
        vm.ok("cat /sys/fs/cgroup/cgroup.controllers")?.contains("pids"),
        "not cgroup v2"
    );
    vm.ok("findmnt -n -t bpf /sys/fs/bpf && ls /sys/class/udc/dummy_udc.1 >/dev/null")
        .map(drop)
}

fn probe(vm: &Vm) -> Result<()> {
    vm.ok("mkdir /run/probe && mknod -m 600 /run/probe/null c 1 3")?;
    ensure!(vm.ok("probe open --rw /run/probe/null")? == "ok char 1:3 600 0:0");
    ensure!(vm.fails("probe open /run/probe/none")?.stdout == "ENOENT\n");
    ensure!(
        vm.fails("setpriv --reuid 1000 --clear-groups probe open /run/probe/null")?
            .stdout
            .starts_with("EACCES")
    );
    let watch = vm.watch_open("probe", "/run/probe/node", "/run/probe/stop", "/run/probe/stop")?;
    vm.ok("mknod -m 640 /run/probe/node c 1 5; sleep 0.1; chmod 600 /run/probe/node; sleep 0.1; rm /run/probe/node; sleep 0.1")?;
    let seen: Vec<String> = watch
        .stop()?
        .into_iter()
        .map(|sighting| sighting.outcome)
        .collect();
    // mknod -m makes the node with the umask's mode first, which may be seen too.
    let changes: Vec<&str> = seen
        .iter()
        .map(String::as_str)
        .filter(|seen| !seen.contains(" 644 "))
        .collect();
    ensure!(
        changes == ["ENOENT", "ok char 1:5 640 0:0", "ok char 1:5 600 0:0", "ENOENT"],
        "{seen:?}"
    );
    let held = vm.start_job("exec probe hold-opath /run/probe/null")?;
    held.wait_for("ok char 1:3", SOON)?;
    vm.ok("chmod 0 /run/probe/null; rm /run/probe/null")?;
    held.write(b"\n")?;
    // Root's own capability opens it all the same.
    held.wait_for("ok char 1:3 0 0:0", SOON)?;
    held.close_input()?;
    ensure!(held.wait(SOON)?.success());
    Ok(())
}

/// The installed completion scripts are where the shells look for them, and bash's complete.
fn completions(vm: &Vm) -> Result<()> {
    vm.ok("cd /usr/share && for program in devbroker ctm; do
            grep -q \"^#compdef $program\" zsh/vendor-completions/_$program || exit 1
            grep -q \"complete -c $program\" fish/vendor_completions.d/$program.fish || exit 1
        done")?;
    for (line, proposed) in [
        ("ctm st", "start stop stats status"),
        ("devbroker al", "aliases alias"),
    ] {
        let (program, word) = line.split_once(' ').unwrap_or_default();
        let words = vm.ok(&format!(
            "source /usr/share/bash-completion/completions/{program} && COMP_WORDS=({line}) COMP_CWORD=1
            _{program} {program} {word} {program}; echo ${{COMPREPLY[@]}}"
        ))?;
        ensure!(words == proposed, "{line}: {words}");
    }
    Ok(())
}

/// Runs in a container what the container root brings along.
fn container_root(vm: &Vm) -> Result<()> {
    vm.ok("cp -a /srv/rootfs /srv/c && cp /shared/probe /srv/c/bin/ && tar -tf /srv/rootfs.tar | grep -q etc/passwd")?;
    let seen = vm.ok(
        "mount -t proc proc /srv/c/proc && mknod -m 666 /srv/c/dev/null c 1 3
        chroot /srv/c sh -c 'id saned; probe open /dev/null; touch /tmp/a; setfacl -m u:7:r /tmp/a; getfacl -cn /tmp/a'",
    )?;
    let expected = "uid=114(saned) gid=120(scanner) groups=120(scanner),7(lp)\nok char 1:3 666 0:0\n\
        user::rw-\nuser:7:r--\ngroup::r--\nmask::r--\nother::r--";
    ensure!(seen == expected, "{seen}");
    Ok(())
}

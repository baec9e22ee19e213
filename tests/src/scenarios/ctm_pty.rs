//! A person at a terminal enters a container: what is typed, shown, resized and cut off is as on a terminal of the host's.

use anyhow::{Result, ensure};

use crate::vm::{Container, Lab, Users, Vm};

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    for users in Users::BOTH {
        let container = Container::create(&vm, "box", users)?;
        vm.ok("ctm set box console=true")?;
        container.start()?;
        shell(&vm)?;
        password(&vm)?;
        full_screen(&vm)?;
        exit_codes(&vm)?;
        hung_up(&vm, &container)?;
        console(&vm)?;
        container.destroy()?;
    }
    Ok(())
}

/// What a session showed; it must end with this code and leave the terminal as it was.
fn typed(vm: &Vm, steps: &str, command: &str, end: &str) -> Result<String> {
    let shown = vm.ok(&format!("exec probe type 40 100 {steps} -- {command}"))?;
    ensure!(shown.ends_with(&format!("\nended {end}")), "{command}: {shown}");
    Ok(shown)
}

/// A login shell: job control, and a size that follows the window.
fn shell(vm: &Vm) -> Result<()> {
    // A shell that does not know yet that a stopped job has ended would not: `fg` waits for it.
    let steps = "'?# ' $'!stty size; tty; echo $0 $USER $HOME\\n' '?40 100' '?/dev/pts/' '?root /root' \
        =50,132 $'!stty size\\n' '?50 132' $'!sleep 1000 &\\n' $'!jobs\\n' '?Running' \
        $'!(echo h$((1))t; exec sleep 1000)\\n' '?h1t' $'!\\x1a' '?Stopped' '?# ' $'!kill -9 %1 %2; fg %2; wait; exit 7\\n'";
    typed(vm, steps, "ctm enter box", "7, terminal as before")?;
    let steps = "'?$ ' $'!id -un; : </dev/tty && echo o$((1))n\\n' '?user' '?o1n' $'!exit\\n'";
    typed(vm, steps, "ctm enter -u user box", "0, terminal as before").map(drop)
}

/// busybox' own prompt for a password: nothing of it is shown, here or inside.
fn password(vm: &Vm) -> Result<()> {
    let steps = "'?password:' $'!Sesam-4711-open\\n' '?password:' $'!Sesam-4711-open\\n' '?changed'";
    let shown = typed(vm, steps, "ctm exec box passwd user", "0, terminal as before")?;
    ensure!(!shown.contains("Sesam"), "{shown}");
    Ok(())
}

/// An editor draws to the last line of the window, also of one that grew.
fn full_screen(vm: &Vm) -> Result<()> {
    vm.ok("echo 'the text of it' >/var/lib/ctm/box/rootfs/tmp/file")?;
    let steps = "'?the text of it' $'?\\x1b[40;1H' $'!:q\\n'";
    let shown = typed(vm, steps, "ctm exec box vi /tmp/file", "0, terminal as before")?;
    ensure!(shown.matches(";1H~").count() >= 30, "{shown}");
    let steps =
        "'?# ' =25,90 $'!vi /tmp/file\\n' '?the text of it' $'?\\x1b[25;1H' $'!:q\\n' '?# ' $'!exit\\n'";
    typed(vm, steps, "ctm enter box", "0, terminal as before").map(drop)
}

fn exit_codes(vm: &Vm) -> Result<()> {
    for (command, end) in [
        ("sh -c 'exit 3'", "3, terminal as before"),
        ("sh -c 'kill -9 $$'", "137, terminal as before"),
        ("/bin/none", "8, terminal as before"),
    ] {
        typed(vm, "", &format!("ctm exec box -- {command}"), end)?;
    }
    // Ctrl-C is the command's business.
    let steps = "'?up' $'!\\x03'";
    typed(
        vm,
        steps,
        "ctm exec box -- sh -c 'echo up; exec sleep 1000'",
        "130, terminal as before",
    )?;
    // A terminal is there exactly if standard input is one, or by -t.
    let pipes = vm.run("echo typed | ctm exec box -- sh -c 'cat; tty'")?;
    ensure!(
        (pipes.status, pipes.stdout.as_str()) == (1, "typed\nnot a tty\n"),
        "{pipes:?}"
    );
    let terminal = vm.ok("ctm exec -t box tty </dev/null")?;
    ensure!(terminal.starts_with("/dev/pts/"), "{terminal}");
    Ok(())
}

/// The window is closed, or ctm ended: so is what ran on it, and nothing else.
fn hung_up(vm: &Vm, container: &Container) -> Result<()> {
    let script = "sh -c 'echo $$ >/tmp/pid; echo up; exec sleep 1000'";
    for (step, end) in [
        (".", "129, terminal closed"),
        ("-15", "143, terminal as before"),
        ("-1", "129, terminal as before"),
    ] {
        typed(
            vm,
            &format!("'?up' {step}"),
            &format!("ctm exec box -- {script}"),
            end,
        )?;
        vm.until("! ctm exec box -- sh -c 'kill -0 $(cat /tmp/pid)'")?;
        ensure!(container.ok("echo well")? == "well");
    }
    Ok(())
}

/// The first process' own terminal.
fn console(vm: &Vm) -> Result<()> {
    vm.ok("ctm stop box; ctm set box init='[\"/bin/sh\", \"-c\", \"while read x; do stty size; echo said $x; done\"]'; ctm start box")?;
    let steps = "'?leaves' $'!one\\n' '?40 100' '?said one' =20,60 $'!two\\n' '?20 60' '?said two' $'!\\x1d'";
    typed(vm, steps, "ctm console box", "0, terminal as before")?;
    let log = vm.ok("ctm log -n 2 box")?.replace('\r', "");
    ensure!(log == "20 60\nsaid two", "{log}");
    Ok(())
}

//! Commands in a container, with pipes and on a terminal.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what fails in a test panics"
)]

mod room;

use room::printed;

/// A container that runs.
const UP: &str = "ctm create box $USERNS --rootfs $ROOTFS --init /bin/sh -c 'trap \"exit 0\" TERM; while :; do sleep 1 & wait; done' >/dev/null\n\
    ctm start box 2>/dev/null\ncode() { code=0; \"$@\" || code=$?; echo code $code; }\n";
const DOWN: &str = "\nctm stop box; ctm destroy box --yes; ls -A /run/ctm/.exec\n";

fn both(name: &str, text: &str, expected: &str) {
    for userns in ["--userns", "--no-userns"] {
        let out = printed(name, &format!("USERNS={userns}\n{UP}{text}{DOWN}"));
        // Set-user-id programs count where root is nobody outside.
        let kept = if userns == "--userns" {
            "NoNewPrivs:\t0"
        } else {
            "NoNewPrivs:\t1"
        };
        assert_eq!(out, expected.replace("NoNewPrivs:\t1", kept), "{userns}");
    }
}

#[test]
fn with_pipes() {
    both(
        "piped",
        "code ctm exec box -- sh -c 'id; pwd; echo $USER $LOGNAME $HOME $SHELL; tty; exit 7' </dev/null\n\
         code ctm exec -u ann box -- sh -c 'id; echo $HOME' </dev/null\n\
         ctm exec -u ann:lp box id -g; ctm exec --user 4711 box id -u; ctm exec --cwd /home box -- sh -c pwd\n\
         ctm exec -u ann box -- cat /proc/self/status | grep -E 'CapEff|NoNew|Seccomp:'\n\
         ctm exec -u ann box true >$TMP/out; stat -c %u $TMP/out\n\
         for user in none root:none; do code ctm exec -u $user box true 2>&1; done\n\
         code ctm exec box /bin/none 2>&1; code ctm exec --cwd /none box true 2>&1\n\
         head -c 3000000 /dev/urandom >$TMP/r; ctm exec box cat <$TMP/r | cmp - $TMP/r\n\
         ctm exec box yes | head -1\n\
         code ctm exec box -- sh -c 'kill -9 $$'\n\
         ctm exec box -- sh -c 'trap \"exit 5\" TERM; echo ready >/tmp/ready; while :; do sleep 1000 & wait; done' & own=$!\n\
         until ctm exec box cat /tmp/ready 2>/dev/null; do :; done; kill -TERM $own; code wait $own\n",
        "uid=0(root) gid=0(root)\n/\nroot root /root /bin/sh\nnot a tty\ncode 7\n\
         uid=1000(ann) gid=1000 groups=7(lp)\n/home\ncode 0\n7\n4711\n/home\n\
         CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n0\n\
         ctm: the container has no user `none` in its /etc/passwd; a number works without\ncode 8\n\
         ctm: the container has no group `none` in its /etc/group; a number works without\ncode 8\n\
         ctm: cannot run it in the container: executable file `/bin/none` not found in $PATH: No such file or directory\ncode 8\n\
         ctm: the container has no folder /none\ncode 8\ny\ncode 137\nready\ncode 5\n",
    );
}

/// What the container's root put in the place of its files leads nowhere.
#[test]
fn hostile_accounts() {
    both(
        "liar",
        "echo evil:x:0:0::/:/bin/sh >$TMP/passwd; root=/var/lib/ctm/box/rootfs; rm $root/etc/passwd; ln -s $TMP/passwd $root/etc/passwd\n\
         code ctm exec -u evil box true 2>&1; ctm exec box id -u\n\
         rm $root/etc/passwd; mkfifo $root/etc/passwd; code ctm exec box true 2>&1\n",
        "ctm: the container has no user `evil` in its /etc/passwd; a number works without\ncode 8\n0\n\
         ctm: cannot read /etc/passwd of the container: it is no ordinary file\ncode 8\n",
    );
}

#[test]
fn on_a_terminal() {
    both(
        "typed",
        "typist() { timeout 50 python3 -c \"$TYPIST\" 40 100 \"$@\" 2>&1 || echo $?; }\n\
         typist '?/dev/pts/' -- ctm exec box -- sh -c 'tty; : </dev/tty; exit 9'\n\
         echo x | ctm exec -t box -- sh -c 'cat; tty' | grep -c -e ^x -e /dev/pts\n\
         typist '?# ' '!stty size; echo $0 $HOME\\n' '?40 100' '?/root' '=50,132' '!stty size\\n' '?50 132' \
            '!sleep 1000 &\\n' '!jobs\\n' '?Running' '!(echo h$((1))t; exec cat)\\n' '?h1t' '!\\x03' '?^C' '?# ' '!exit 5\\n' -- ctm enter box\n\
         typist '?$ ' '!id -u; tty; : </dev/tty && echo o$((1))n\\n' '?1000' '?pts' '?o1n' '!exit\\n' -- ctm enter -u ann box\n\
         typist '?Password' '!secret\\n' '?got 6' -- ctm exec box -- sh -c 'stty -echo; echo Password:; read x; stty echo; echo got ${#x}'\n\
         for signal in 1 15; do\n\
         typist '?up' -$signal -- ctm exec box -- sh -c 'echo $$ >/tmp/pid; echo up; exec sleep 1000'\n\
         until ! ctm exec box -- sh -c 'kill -0 $(cat /tmp/pid)' </dev/null 2>/dev/null; do :; done; done\n",
        "9 as before\n3\n5 as before\n0 as before\n0 as before\n129 as before\n143 as before\n",
    );
}

/// The first process has a terminal, on which anybody attached can type; what it wrote is kept beyond its end.
#[test]
fn the_console() {
    for userns in ["--userns", "--no-userns"] {
        let out = printed(
            "spoken",
            &format!(
                "typist() {{ timeout 50 python3 -c \"$TYPIST\" 40 100 \"$@\" 2>&1 || echo $?; }}\n\
                 ctm create box {userns} --rootfs $ROOTFS --init /bin/sh -c \
                    '[ -t 0 ] || exec sleep 1000; tty </dev/console; while read x; do echo said $x; stty size; [ $x = end ] && exit 4; done' >/dev/null\n\
                 ctm log box; ctm log -f none 2>/dev/null || echo $?\n\
                 ctm start box 2>/dev/null; ctm console box 2>&1 || echo $?; ctm stop --timeout 0 box; ctm set box console=true; ctm start box 2>/dev/null\n\
                 ctm log -f -n 0 box >$TMP/said & own=$!\n\
                 typist '?leaves' '!one\\n' '?said one' '?40 100' '=20,60' '!two\\n' '?20 60' '!\\x1d' -- ctm console box\n\
                 typist '?leaves' '-15' -- ctm console box; [ -e /run/ctm/box/attach ] && echo still there\n\
                 typist '?leaves' '!end\\n' '?said end' '?ended' -- ctm console box\n\
                 wait $own; tr -d '\\r' <$TMP/said | grep -v -e /dev/ -e ' starting' -e ' running'; ctm log -n 1 box; ctm wait box || true\n\
                 ctm destroy --yes box; ls -A /run/ctm/.output"
            ),
        );
        assert_eq!(
            out,
            "14\nctm: container box has no console; `ctm set box console=true` gives it one at its next start\n1\n\
             0 as before\n143 as before\nstill there\n0 as before\n\
             one\nsaid one\n40 100\ntwo\nsaid two\n20 60\nend\nsaid end\n40 100\n\
             [ctm] the first process exited with code 4\n[ctm] the first process exited with code 4\n4\n",
            "{userns}"
        );
    }
}

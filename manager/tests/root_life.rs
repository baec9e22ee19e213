//! The life of a container on the real kernel and the real crun, in a mount namespace of the test's own: a pure cgroup v2
//! view, a bpffs, and empty /run, /var/lib and /etc/ctm. Needs root, crun and busybox; a test that lacks them fails.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what fails in a test panics"
)]

mod room;

use room::printed;

/// All that a run could leave.
const LEFT: &str = "\n{ ls -A /run/ctm | grep -v '^\\.'; ls -A /run/ctm/.crun; ls -A /run/devbroker/containers; \
    ls /sys/fs/bpf/devbroker; ls -d /sys/fs/cgroup/ctm/box; grep /run/ctm/ /proc/self/mountinfo; } 2>/dev/null || true\n";

fn life(name: &str, userns: &str) -> String {
    printed(
        name,
        &format!(
            "ctm create box {userns} --rootfs $ROOTFS --init /bin/sh -c 'trap \"exit 0\" TERM; echo up; while :; do sleep 1 & wait; done' >/dev/null\n\
         ctm start box 2>/dev/null\n\
         ctm exec box -- sh -c 'id -u; cat /dev/null; mknod /tmp/d c 10 200 2>/dev/null; cat /dev/kmsg /tmp/d' 2>&1 || echo code $?\n\
         code=0; ctm exec box -- sh -c 'exit 7' || code=$?; echo code $code\n\
         ctm status box | head -1\n\
         code=0; ctm start box 2>/dev/null || code=$?; echo again $code\n\
         ctm stop box\n\
         code=0; ctm status box >/dev/null || code=$?; echo stopped $code\n\
         code=0; ctm exec box -- true 2>/dev/null || code=$?; echo exec $code\n\
         ctm destroy box --yes\n\
         code=0; ctm status box 2>/dev/null || code=$?; echo gone $code; ls -A /var/lib/ctm /etc/ctm/containers\n{LEFT}"
        ),
    )
}

const AFTER: &str = "code 7\nbox: running\nagain 32\nstopped 31\nexec 31\ngone 14\n/etc/ctm/containers:\n\n/var/lib/ctm:\n.booted\n";

#[test]
fn plain() {
    let expected = "0\ncat: can't open '/dev/kmsg': No such file or directory\n\
                    cat: can't open '/tmp/d': Operation not permitted\ncode 1\n";
    assert_eq!(life("plain", "--no-userns"), format!("{expected}{AFTER}"));
}

#[test]
fn with_a_user_namespace() {
    let expected = "0\ncat: can't open '/dev/kmsg': No such file or directory\n\
                    cat: can't open '/tmp/d': No such file or directory\ncode 1\n";
    assert_eq!(life("owned", "--userns"), format!("{expected}{AFTER}"));
}

/// A node that the host puts there is refused by the device program, whoever the container's root is.
#[test]
fn what_is_not_granted_does_not_open() {
    for userns in ["--userns", "--no-userns"] {
        let out = printed(
            "closed",
            &format!(
                "ctm create box {userns} --rootfs $ROOTFS --init /bin/sleep infinity >/dev/null\n\
             ctm start box 2>/dev/null\n\
             mknod -m 666 /run/ctm/box/devfs/dev/loop-control c 10 237\n\
             mknod -m 666 /run/ctm/box/devfs/dev/zero2 c 1 5\n\
             ctm exec box -- sh -c ': </dev/zero2 && echo zero2 opens; : </dev/loop-control' 2>&1 || echo code $?\n\
             ctm stop box"
            ),
        );
        assert_eq!(
            out, "zero2 opens\nsh: can't open /dev/loop-control: Operation not permitted\ncode 1\n",
            "{userns}"
        );
    }
}

/// bpf(2) is the way to take the program off one's own cgroup.
#[test]
fn bpf_is_denied() {
    let out = printed(
        "nobpf",
        "ctm create box --no-userns --rootfs $ROOTFS --init /bin/sleep infinity >/dev/null\n\
         ctm start box 2>/dev/null\n\
         ctm exec box -- sh -c 'while read -r key value; do case $key in Seccomp:|NoNewPrivs:) echo $key $value;; esac; done </proc/1/status'\n\
         ctm stop box",
    );
    assert_eq!(out, "NoNewPrivs: 1\nSeccomp: 2\n");
}

/// The supervisor is killed: the container is shown as abandoned, and the next start or stop cleans up.
#[test]
fn a_killed_supervisor() {
    let out = printed(
        "killed",
        &format!(
            "ctm create box --rootfs $ROOTFS --init /bin/sleep infinity >/dev/null\n\
         kill_it() {{ kill -9 $(cat /sys/fs/cgroup/ctm/box/supervisor/cgroup.procs); }}\n\
         gone() {{ while grep -q 'populated 1' /sys/fs/cgroup/ctm/box/supervisor/cgroup.events; do :; done; }}\n\
         ctm start box 2>/dev/null; kill_it; gone\n\
         ctm status box | head -1 || true\n\
         ctm start box 2>/dev/null; ctm status box | head -1\n\
         ctm exec box -- true; kill_it; gone\n\
         ctm stop box; ctm status box | head -1\n{LEFT}"
        ),
    );
    assert_eq!(out, "box: abandoned\nbox: running\nbox: stopped\n");
}

/// What fails is undone, and the reason is told.
#[test]
fn a_start_that_fails_leaves_nothing() {
    let out = printed(
        "failing",
        &format!(
            "ctm create box --rootfs $ROOTFS --init /bin/none >/dev/null\n\
         code=0; ctm start box 2>$TMP/err || code=$?; echo code $code; cat $TMP/err\n{LEFT}\
         umount /sys/fs/bpf; sed -i s,/bin/none,/bin/sleep, /etc/ctm/containers/box.toml; ctm start box 2>$TMP/err || grep -o 'not on a bpf file system' $TMP/err\n{LEFT}"
        ),
    );
    assert_eq!(
        out,
        "code 1\nctm: cannot start container box: crun create failed (exit status: 1): \
         executable file `/bin/none` not found in $PATH: No such file or directory\nnot on a bpf file system\n"
    );
}

/// Mounts come and go in a running container, restricted from the first moment, wherever its links lead.
#[test]
fn mounts_of_a_running_container() {
    for (name, userns, owner) in [
        ("livemount", "--no-userns", "0"),
        ("livemountown", "--userns", "65534"),
    ] {
        let out = printed(
            name,
            &format!(
                "mkdir -p $TMP/given; mount -t tmpfs given $TMP/given; mount --make-shared $TMP/given; chmod 755 $TMP\n\
                 mkdir $TMP/given/below; echo hello >$TMP/given/file\n\
                 ctm create box {userns} --rootfs $ROOTFS --init /bin/sh -c 'trap \"exit 0\" TERM; while :; do sleep 1 & wait; done' >/dev/null\n\
                 ctm start box 2>/dev/null\n\
                 ctm mount add box /srv/deep/er --bind $TMP/given --read-only --follow\n\
                 ctm mount add box /srv/file --bind $TMP/given/file\n\
                 ctm mount add box /t --tmpfs 1M\n\
                 inside() {{ ctm exec box -- sh -c \"$1\" 2>&1 || true; }}\n\
                 inside 'cat /srv/deep/er/file /srv/file; (echo x >/srv/deep/er/new) 2>/dev/null || echo read-only; stat -c %u /srv/deep/er /t; echo x >/t/mine && echo written'\n\
                 mount -t tmpfs later $TMP/given/below; echo later >$TMP/given/below/it; inside 'cat /srv/deep/er/below/it'\n\
                 inside 'mkdir /out; ln -s / /out/root; ln -s ../../../.. /out/up; ln -s /nowhere /out/none'\n\
                 ctm mount add box /out/root/made --tmpfs 1M --runtime; ctm mount add box /out/up/made2 --tmpfs 1M --runtime\n\
                 ctm mount add box /out/none/x --tmpfs 1M --runtime 2>&1 || echo code $?\n\
                 ls -d /made /made2 2>/dev/null || true; inside 'ls -d /made /made2'\n\
                 ctm mount add box /t --tmpfs 1M 2>&1 || true\n\
                 ctm mount add box /u --bind /nonexistent 2>&1 || true\n\
                 ctm mount add box /bin/sh --bind $TMP/given 2>&1 || true\n\
                 grep -c '^\\[\\[mount' /etc/ctm/containers/box.toml\n\
                 ctm mount remove box /t; ctm mount remove box /srv/deep/er; inside 'ls /srv/deep/er /t'\n\
                 grep -c '^\\[\\[mount' /etc/ctm/containers/box.toml\n\
                 ctm stop box; ctm start box 2>/dev/null; inside 'cat /srv/file; ls /t'; ctm stop box; umount $TMP/given/below\n\
                 ctm destroy box --yes{LEFT}"
            ),
        );
        let expected = format!(
            "hello\nhello\nread-only\n{owner}\n0\nwritten\nlater\n\
             ctm: cannot mount in container box: cannot make /out/none: File exists (os error 17)\ncode 1\n\
             /made\n/made2\n\
             ctm: something is mounted on /t already; `ctm mount remove box /t` takes it away\n\
             ctm: cannot mount in container box: cannot bind /nonexistent: No such file or directory (os error 2)\n\
             ctm: cannot mount in container box: /bin/sh is a file in the container, and what is to be mounted is a folder\n\
             3\n/srv/deep/er:\n\n/t:\n1\nhello\n"
        );
        assert_eq!(out, expected, "{userns}");
    }
}

/// Another name: everything goes along, wherever the renaming was killed.
#[test]
fn another_name() {
    let out = printed(
        "renaming",
        "mkdir -p /etc/ctm/hooks.d /var/lib/devbroker/permissions /etc/devbroker; mount -t tmpfs none /etc/devbroker; mkdir /etc/devbroker/conf.d\n\
         printf '[alias.a]\nmatch = { vendor = \"1234\" }\n[[grant]]\nalias = \"a\"\ncontainer = \"ctm:box\"\n' >/etc/devbroker/conf.d/a.toml\n\
         for point in defined moved known none; do\n\
         ctm create box --rootfs $ROOTFS >/dev/null; ctm create later --rootfs $ROOTFS >/dev/null; ctm set later 'after=[\"box\"]'\n\
         echo '# mine' >>/etc/ctm/containers/box.toml; ids=$(ctm config box | grep ^userns | cut -d'#' -f1)\n\
         echo '#!/bin/sh' >/etc/ctm/hooks.d/box.pre-stop\n\
         CTM_FAIL_POINT=rename:$point ctm rename box other 2>/dev/null || echo $point\n\
         [ ! -e /etc/ctm/containers/other.toml ] || ctm create other --rootfs $ROOTFS 2>/dev/null || echo kept\n\
         [ $point = none ] || ctm rename box other 2>&1\n\
         [ \"$ids\" = \"$(ctm config other | grep ^userns | cut -d'#' -f1)\" ] || echo other ids\n\
         grep -E '^(hostname|rootfs|# mine|# Container)' /etc/ctm/containers/other.toml; grep ^after /etc/ctm/containers/later.toml\n\
         ls /var/lib/ctm /etc/ctm/containers /etc/ctm/hooks.d /var/lib/ctm/other/rootfs/bin/sh\n\
         ctm destroy other --yes; ctm destroy later --yes; rm -f /etc/ctm/hooks.d/*; done",
    );
    let told = "/etc/devbroker/conf.d/a.toml:3 grants a to ctm:box and not to ctm:other; change it there\n";
    let end = "# Container other; see ctm(8).\nrootfs = \"/var/lib/ctm/other/rootfs\"\nhostname = \"other\"\n# mine\nafter = [\"other\"]\n\
               /var/lib/ctm/other/rootfs/bin/sh\n\n/etc/ctm/containers:\nlater.toml\nother.toml\n\n/etc/ctm/hooks.d:\nother.pre-stop\n\n\
               /var/lib/ctm:\nlater\nother\n";
    let killed = ["defined", "moved", "known"].map(|point| format!("{point}\nkept\n{told}{end}"));
    assert_eq!(out, format!("{}kept\n{end}", killed.concat()));
}

/// Hooks run in order with what they need to know; one that fails keeps the container from running, and says so.
#[test]
fn hooks_at_their_turns() {
    let out = printed(
        "turning",
        "mkdir -p /etc/ctm/hooks.d; cd /etc/ctm/hooks.d\n\
         for turn in pre-start post-start pre-stop post-stop; do\n\
         echo '#!/bin/sh\necho all $CTM_HOOK $VEID $VE_CONFFILE ${CTM_PID:+pid} >>/run/told' >$turn\n\
         echo '#!/bin/sh\necho own $CTM_HOOK >>/run/told' >box.$turn; chmod 700 $turn box.$turn; done\n\
         echo 'echo inside $(id -u) >>/told' >box.first-boot\n\
         ctm create box --rootfs $ROOTFS --init /bin/sh -c 'trap \"exit 0\" TERM; while :; do sleep 1 & wait; done' >/dev/null\n\
         for round in 1 2; do ctm start box 2>/dev/null; ctm stop box; done\n\
         cat /run/told /var/lib/ctm/box/rootfs/told; rm /run/told\n\
         echo '#!/bin/sh\nexit 3' >box.post-start\n\
         code=0; ctm start box 2>&1 | tail -1 || true; ctm start box 2>/dev/null || code=$?; echo code $code; cat /run/told\n\
         chmod 722 pre-start; code=0; ctm start box 2>&1 | tail -1; ctm status box | head -1 || true",
    );
    let once = "all pre-start box /etc/ctm/containers/box.toml\nown pre-start\n\
                all post-start box /etc/ctm/containers/box.toml pid\nown post-start\n\
                all pre-stop box /etc/ctm/containers/box.toml pid\nown pre-stop\n\
                all post-stop box /etc/ctm/containers/box.toml\nown post-stop\n";
    let failed = "all pre-start box /etc/ctm/containers/box.toml\nown pre-start\n\
                  all post-start box /etc/ctm/containers/box.toml pid\n\
                  all post-stop box /etc/ctm/containers/box.toml\nown post-stop\n";
    let hook =
        "ctm: cannot start container box: the hook /etc/ctm/hooks.d/box.post-start failed (exit status: 3)";
    assert_eq!(
        out.replace(" \n", "\n"),
        format!(
            "{once}{once}inside 0\n{hook}\ncode 79\n{failed}{failed}ctm: cannot start container box: the hook \
             /etc/ctm/hooks.d/pre-start can be changed by others than root; chown root and chmod go-w, then try again\n\
             box: stopped\n"
        )
    );
}

/// Two containers never share host ids, also where /etc/subuid says nothing.
#[test]
fn ids_are_the_containers_own() {
    let out = printed(
        "number",
        "for box in a b; do ctm create $box --rootfs $ROOTFS >/dev/null; grep ^userns /etc/ctm/containers/$box.toml; done\n\
         echo 'userns = maybe' >/etc/ctm/containers/a.toml\n\
         ctm create c --rootfs $ROOTFS 2>&1 || echo code $?\n\
         ctm create b --rootfs $ROOTFS 2>&1 || echo code $?\n\
         ctm destroy a --yes; ctm create c --rootfs $ROOTFS >/dev/null; grep ^userns /etc/ctm/containers/c.toml",
    );
    assert_eq!(
        out,
        "userns = { first = 1073741824, count = 65536 }\nuserns = { first = 1073807360, count = 65536 }\n\
         ctm: cannot tell which host ids are free; mend this definition first: /etc/ctm/containers/a.toml:1:10: error: \
         string values must be quoted, expected literal string\n   |\n 1 | userns = maybe\n   |          ^^^^^\ncode 1\n\
         ctm: container b exists already: /etc/ctm/containers/b.toml\ncode 44\n\
         userns = { first = 1073741824, count = 65536 }\n"
    );
}

/// ctm is killed after each of its steps: what it leaves is never a container that runs with more than it may, and the next
/// start or create goes through as if nothing had been.
#[test]
fn killed_after_each_step() {
    let points = "after:enter after:hooks after:shared-folder after:devfs after:bundle after:create after:limit filter:Folder filter:Seeded \
        filter:Loaded filter:Attached filter:Linked filter:LinkPinned filter:ProgramPinned filter:MapPinned \
        after:filter after:register after:announce after:start";
    let out = printed(
        "stepwise",
        &format!(
            "ctm create box --rootfs $ROOTFS --init /bin/sh -c 'echo >/ran; exec sleep 1000' >/dev/null\n\
             for point in {points}; do\n\
             if CTM_FAIL_POINT=$point ctm start box 2>/dev/null; then echo $point: not reached; fi\n\
             if [ -e /var/lib/ctm/box/rootfs/ran ]; then echo $point: ran; rm /var/lib/ctm/box/rootfs/ran; fi\n\
             ctm status box | head -1 | grep -v abandoned || true\n\
             ctm start box 2>/dev/null || echo $point: does not start again; ctm stop box\n\
             rm -f /var/lib/ctm/box/rootfs/ran; done{LEFT}"
        ),
    );
    // After the last step it runs, confined; nobody looks after it.
    assert_eq!(out.replace("after:start: ran\n", ""), "");
}

/// Without a broker, too, a container of the same name that comes later has nothing of the former one.
#[test]
fn destroying_forgets_what_was_set_inside() {
    let out = printed(
        "forgotten",
        "at=/var/lib/devbroker/permissions; mkdir -p $at; touch $at/0:ctm:box.jsonl $at/0:ctm:box-2.jsonl $at/1000:ctm:box.jsonl\n\
         ctm create box --rootfs $ROOTFS >/dev/null; ls $at\n\
         ctm destroy box --yes; echo destroyed; ls $at; ctm create box --rootfs $ROOTFS >/dev/null; ctm destroy box --yes",
    );
    assert_eq!(
        out,
        "0:ctm:box-2.jsonl\n0:ctm:box.jsonl\n1000:ctm:box.jsonl\ndestroyed\n0:ctm:box-2.jsonl\n1000:ctm:box.jsonl\n"
    );
}

/// Between two runs of a container that rebooted itself, a moment that is held open here, it is not taken for stopped: who stops it
/// keeps it down, and it is not destroyed, renamed or started beside its supervisor.
#[test]
fn between_two_runs() {
    let out = printed(
        "tween",
        &format!(
            "mkfifo $TMP/hold; say() {{ code=0; \"$@\" >$TMP/said 2>&1 || code=$?; echo $code \"$(head -1 $TMP/said)\"; }}\n\
             begin() {{ CTM_HOLD_POINT=between:runs=$TMP/hold ctm start box 2>/dev/null; exec 3>$TMP/hold; }}\n\
             go_on() {{ exec 3>&-; }}; ran() {{ wc -l </var/lib/ctm/box/rootfs/ran; rm /var/lib/ctm/box/rootfs/ran; }}\n\
             ctm create box --rootfs $ROOTFS --init /bin/sh -c \
             'echo ran >>/ran; [ $(stat -c %s /ran) -gt 4 ] || /bin/busy* reboot -f; trap \"exit 0\" TERM; while :; do sleep 1 & wait; done' >/dev/null\n\
             begin; say ctm status box; say ctm start box; say ctm exec box -- true; say ctm pause box; say ctm destroy box --yes; say ctm rename box other\n\
             for verb in 'stop --timeout 5' kill; do ctm $verb box 3>&- & verb=$!; until [ -e /run/ctm/box/stop-within ]; do :; done\n\
             go_on; wait $verb; say ctm status box; ran; [ -e $TMP/again ] || begin; : >$TMP/again; done\n\
             begin; ctm stop box 3>&- & verb=$!; go_on; wait $verb; say ctm status box; ran >/dev/null\n\
             begin; ctm wait box >$TMP/waited 3>&- & wait=$!; until ls -l /proc/$wait/fd 2>/dev/null | grep -q pidfd; do :; done\n\
             go_on; until ctm exec box -- true 2>/dev/null; do :; done; ctm stop box; code=0; wait $wait || code=$?; echo waited $code $(cat $TMP/waited); ran\n\
             begin; ctm restart box 2>/dev/null 3>&- & verb=$!; go_on; wait $verb; say ctm status box; ctm stop box; ran >/dev/null\n\
             begin; at=/proc/$(sed 's/.*\"supervisor\":{{\"pid\":\\([0-9]*\\).*/\\1/' /run/ctm/box/state.json); kill -9 ${{at#/proc/}}; while [ -e $at/cwd ]; do :; done; go_on\n\
             say ctm status box; ctm start box 2>/dev/null; say ctm status box; ctm stop box; ran{LEFT}"
        ),
    );
    assert_eq!(
        out,
        "31 box: restarting\n32 ctm: container box is restarting already\n\
         31 ctm: container box does not run; `ctm start box` starts it\n31 ctm: container box does not run; `ctm start box` starts it\n\
         32 ctm: container box is restarting; `ctm stop box` stops it, and then it can be destroyed\n\
         32 ctm: container box is restarting; `ctm stop box` stops it, and then it can be renamed\n\
         31 box: stopped\n1\n31 box: stopped\n1\n31 box: stopped\nwaited 0 0\n2\n0 box: running\n\
         31 box: abandoned\n0 box: running\n2\n"
    );
}

/// ctm is killed while it holds a container still for a change: the supervisor lets it go, or else the next command does. What a
/// person paused stays paused.
#[test]
fn killed_while_it_holds_a_container_still() {
    let out = printed(
        "still",
        &format!(
            "say() {{ code=0; \"$@\" 2>&1 || code=$?; echo $code; }}\n\
             dies() {{ code=0; CTM_FAIL_POINT=held:still ctm set box \"$1\" || code=$?; echo $code; }}\n\
             frozen() {{ cat /sys/fs/cgroup/ctm/box/container/cgroup.freeze; }}; held() {{ [ -e /run/ctm/box/held.json ]; }}\n\
             ctm create box --rootfs $ROOTFS --init /bin/sh -c 'trap \"exit 0\" TERM; while :; do sleep 1 & wait; done' >/dev/null\n\
             ctm start box 2>/dev/null; supervisor=$(cat /sys/fs/cgroup/ctm/box/supervisor/cgroup.procs)\n\
             for change in oom_score_adj=7 'rlimits={{ nofile = \"64\" }}'; do dies \"$change\"; while held; do :; done; frozen\n\
             ctm exec box -- cat /proc/1/oom_score_adj; done\n\
             kill -STOP $supervisor; dies oom_score_adj=7; frozen; ctm set box oom_score_adj=9; held || frozen; ctm exec box -- cat /proc/1/oom_score_adj\n\
             dies oom_score_adj=8; ctm pause box; held || frozen; kill -CONT $supervisor; frozen\n\
             CTM_FAIL_POINT=held:still ctm set box oom_score_adj=10; frozen; say ctm exec box -- true; ctm resume box; frozen; ctm exec box -- cat /proc/1/oom_score_adj\n\
             kill -STOP $supervisor; dies oom_score_adj=8; kill -CONT $supervisor; ctm stop box{LEFT}"
        ),
    );
    assert_eq!(
        out,
        "137\n0\n0\n137\n0\n0\n137\n1\n0\n9\n137\n1\n1\n1\n\
         ctm: container box is paused; `ctm resume box` lets it go on\n31\n0\n10\n137\n"
    );
}

//! The verbs of a running container: each with what it does and its exit code.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what fails in a test panics"
)]

mod room;

use room::printed;

/// A container that ends well when asked to, once `/stubborn` is gone.
const MADE: &str = "ctm create box --rootfs $ROOTFS --init /bin/sh -c \
    'trap \"[ -e /stubborn ] || exit 0\" TERM; trap \"exit 9\" USR1; while :; do sleep 1000 & wait; done' >/dev/null\n\
    code() { code=0; \"$@\" 2>$TMP/err || code=$?; echo code $code; sed 's/[0-9]\\{2,\\}/N/g' $TMP/err; }\n\
    state() { ctm status box | head -1; }\n";

#[test]
fn paused_and_killed() {
    let out = printed(
        "chilled",
        &format!(
            "{MADE}code ctm pause box; code ctm kill box; code ctm wait box; code ctm resume none\n\
             code ctm restart box; state; code ctm pause box; code ctm pause box; state; code ctm exec box true\n\
             grep frozen /sys/fs/cgroup/ctm/box/container/cgroup.events\n\
             code ctm resume box; state; code ctm exec box true\n\
             ctm pause box; code ctm stop box; state\n\
             ctm start box 2>/dev/null; ctm pause box; code ctm kill box; state; code ctm wait box\n\
             ctm start box 2>/dev/null; code ctm kill -s nothing box | head -1; ctm wait box >$TMP/waited & own=$!\n\
             code ctm kill -s usr1 box; code wait $own; cat $TMP/waited\n\
             while ! ctm status box | grep -q stopped; do :; done; ls -A /run/ctm | grep -v '^\\.' || true"
        ),
    );
    assert_eq!(
        out,
        "code 31\nctm: container box does not run; `ctm start box` starts it\n\
         code 31\nctm: container box does not run; `ctm start box` starts it\n\
         code 31\nctm: container box does not run; `ctm start box` starts it\n\
         code 14\nctm: there is no container none; `ctm list` shows those that there are\n\
         code 0\nbox: running\ncode 0\ncode 0\nbox: paused\ncode 31\nctm: container box is paused; `ctm resume box` lets it go on\n\
         frozen 1\ncode 0\nbox: running\ncode 0\ncode 0\nbox: stopped\ncode 0\nbox: stopped\nN\ncode N\n\
         code 2\ncode 0\ncode 9\n9\n"
            .replace("\nN\ncode N\n", "\n137\ncode 137\n")
    );
}

/// It gets the time that was said, and no more; what is left is killed.
#[test]
fn a_time_to_stop() {
    let out = printed(
        "slow",
        &format!(
            "{MADE}ctm start box 2>/dev/null; ctm exec box touch /stubborn\n\
             code ctm stop --timeout 4000 box | head -1; code ctm stop --timeout 1 box; state; code ctm wait box\n\
             ctm start box 2>/dev/null; first=$(ctm status box --json | grep '\"instance\"'); code ctm restart --timeout 0 box\n\
             state; [ \"$first\" != \"$(ctm status box --json | grep '\"instance\"')\" ] && echo another; ctm kill box"
        ),
    );
    assert_eq!(
        out,
        "code 2\ncode 0\nbox: stopped\n137\ncode 137\ncode 0\nbox: running\nanother\n"
    );
}

/// Two commands on one container: the second waits and says for whom, or fails if it was told not to wait.
#[test]
fn one_at_a_time() {
    let out = printed(
        "locked",
        &format!(
            "{MADE}ctm start box 2>/dev/null; ctm exec box touch /stubborn\n\
             ctm stop --timeout 5 box & own=$!; until ctm status box | grep -q stopping; do :; done\n\
             code ctm --no-wait start box\n\
             code ctm start box; wait $own; state; rm /var/lib/ctm/box/rootfs/stubborn; code ctm stop box"
        ),
    );
    assert_eq!(
        out,
        "code 9\nctm: `ctm stop --timeout 5 box` (process N) is at work on container box; it was not waited for\n\
         code 0\nctm: `ctm stop --timeout 5 box` (process N) is at work on container box; waiting for it\n\
         box: running\ncode 0\n"
    );
}

/// What is shown of containers, for people and for programs.
#[test]
fn shown() {
    let out = printed(
        "seen",
        &format!(
            "{MADE}ctm create other --rootfs $ROOTFS --no-userns >/dev/null; ctm status --vzctl other; ctm status --vzctl none\n\
             ctm start box 2>/dev/null; ctm set box description='what it is for'\n\
             ctm list -H -o name,state,hostname,start,description; ctm list -H -s state -o state --running; ctm list -H -o name --stopped\n\
             ctm list -o name,pid | tr -s ' ' | sed 's/[0-9]\\{{1,\\}}/N/g'; code ctm list -o nothing | head -1; ctm list --json | grep -c '\"hostname\"'\n\
             ctm pause box; ctm status --vzctl box; ctm resume box; ctm status --vzctl box\n\
             ctm status box | grep -c -e 'up for' -e 'what: what it is for'\n\
             pid=$(ctm list -H -o pid --running | tr -d ' '); ctm who $pid; code ctm who $$; code ctm who $pid 1 | sed s/$pid/PID/; code ctm who 4194304 | head -1\n\
             ctm who --json $pid | tr -d ' \\n' | sed s/$pid/PID/; echo\n\
             ctm ps | tr -s ' ' | sed 's/ .*sh -c.*/ sh/; s/ .*sleep/ sleep/'; ctm ps box -- -eo pid,comm | wc -l; code ctm ps other; code ctm ps -- -eo comm\n\
             ctm stats | head -1 | tr -s ' '; ctm stats box | wc -l; ctm stats --json | grep -c -e cpu_usec -e '\"processes\": [2-9]'\n\
             ctm du | sed 's/  *[0-9].*/ SIZE/'; ctm du other --json | grep -c -e bytes -e files; code ctm du none\n\
             ctm kill box; ctm status box | grep -o 'last run.*to,'; code ctm stats box; ctm ps | wc -l"
        ),
    );
    let not_running = "ctm: container NAME does not run; `ctm start NAME` starts it\n";
    assert_eq!(
        out,
        format!(
            "CTID other exist unmounted down\nCTID none deleted unmounted down\n\
             other  stopped  other  manual  -\nbox   running  box   manual  what it is for\nrunning\nother\n\
             NAME PID\nother -\nbox N\ncode 2\n2\n\
             CTID box exist mounted running suspended\nCTID box exist mounted running\n2\n\
             box\n-\ncode 1\nPID box\n1 -\ncode 1\ncode 1\n\
             [{{\"pid\":PID,\"container\":\"box\"}}]\n\
             CONTAINER PID USER STAT STARTED TIME RSS COMMAND\nbox sh\nbox sleep 1000\n3\n\
             code 31\n{}code 1\nctm: ps says nothing with a column PID for these options; add one, as in `-o pid,args`\n\
             NAME CPU MEMORY PEAK READ WRITTEN PROCESSES WAITS CPU MEMORY IO\n2\n2\n\
             NAME   USED  FILES  COUNTED  SOFT  LIMIT  INODES  SOFT  LIMIT\nother SIZE\nbox SIZE\n8\ncode 14\nctm: there is no container none; `ctm list` shows those that there are\n\
             last run: its first process was ended by signal 9, as it was asked to,\ncode 31\n{}1\n",
            not_running.replace("NAME", "other"),
            not_running.replace("NAME", "box"),
        )
    );
}

/// What was found out of the first process is found out of the next one, stopped or running, with files of its own or on a
/// base; what a person said stays.
#[test]
fn another_init() {
    let out = printed(
        "becoming",
        "cp -r $ROOTFS $TMP/r; mkdir -p $TMP/r/sbin; ln -s /lib/systemd/systemd $TMP/r/sbin/init; ln -sf busyb''ox $TMP/r/bin/init\n\
         said() { grep ^stop_signal /etc/ctm/containers/$1.toml; }\n\
         mkdir /etc/ctm/profiles; echo 'stop_timeout = 5' >/etc/ctm/profiles/small.toml\n\
         ctm create small --profile small --rootfs $TMP/r >/dev/null; said small\n\
         printf 'stop_signal = \"SIGHUP\"\\ninit = [\"/bin/init\"]' >/etc/ctm/profiles/own.toml\n\
         ctm create own --profile own --rootfs $TMP/r >/dev/null; said own || ctm config own | grep -o '^stop_signal.*\"'\n\
         tar -C $TMP/r -cf $TMP/r.tar .; ctm create other --tar $TMP/r.tar >/dev/null 2>&1; ctm create box --rootfs $TMP/r >/dev/null\n\
         for name in box other; do\n\
         said $name; ctm set $name 'init=[\"/bin/init\"]' 2>&1; said $name\n\
         ls -A /var/lib/ctm/other/rootfs; ctm set $name init=; said $name\n\
         ctm set $name stop_signal=SIGHUP; ctm set $name 'init=[\"/bin/init\"]'; said $name\n\
         ctm set $name stop_signal=SIGUSR2; ctm set $name init= stop_signal=SIGPWR; said $name; done 2>/dev/null",
    );
    let changed = "stop_signal = \"SIGRTMIN+3\"\nNAME: stop_signal is \"SIGUSR2\" with this init\nstop_signal = \"SIGUSR2\"\n\
                   stop_signal = \"SIGRTMIN+3\"\nstop_signal = \"SIGHUP\"\nstop_signal = \"SIGPWR\"\n";
    assert_eq!(
        out,
        format!(
            "stop_signal = \"SIGRTMIN+3\"\nstop_signal = \"SIGHUP\"\n{}{}",
            changed.replace("NAME", "box"),
            changed.replace("NAME", "other")
        )
    );
}

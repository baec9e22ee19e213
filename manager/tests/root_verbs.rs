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

//! A profile that is changed counts at once for the containers that have it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what fails in a test panics"
)]

mod room;

use room::printed;

#[test]
fn a_profile_counts_at_once_where_it_runs() {
    let out = printed(
        "profiled",
        "ctm create box --rootfs $ROOTFS --init /bin/sh -c 'while :; do sleep 1000 & wait; done' >/dev/null\n\
         ctm start box 2>/dev/null\n\
         score() { cat /proc/$(ctm list -H -o pid --running | tr -d ' ')/oom_score_adj; }\n\
         score; ctm profile create p oom_score_adj=100; ctm profile apply box p 2>/dev/null; score\n\
         ctm profile create p oom_score_adj=200 stop_timeout=7 --replace; score\n\
         ctm profile apply box p 2>$TMP/err; grep -c stop_timeout $TMP/err || true\n\
         ctm profile create p stop_timeout=8 --replace 2>&1 >/dev/null; score\n\
         code=0; ctm profile create p cpus=4000 --replace 2>$TMP/err || code=$?; echo code $code; tail -1 $TMP/err; score; ctm stop box",
    );
    assert_eq!(
        out,
        "0\n/etc/ctm/profiles/p.toml\noom_score_adj: 0 -> 100\nprofile: \"\" -> \"p\"\n100\n/etc/ctm/profiles/p.toml\n200\n\
         stop_timeout: 90 -> 7\n1\nbox runs; counts at its next start: stop_timeout\n0\ncode 1\n\
         ctm: the profile was written, and these go on with what they had: box; `ctm validate` looks for what is wrong\n0\n"
    );
}

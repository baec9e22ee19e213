//! Addresses that are routed to containers: reached from the host, from each other and from a neighbour on the host's network, by
//! IPv4 and IPv6; nobody else's; changed while the container runs; nothing but them can be sent from; nothing left afterwards.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::vm::{Broker, Container, Controller, Gadget, Lab, Vm};

const CONFIGURATION: &str = r#"
[alias.scanner]
match = { vendor = "04b8", product = "011f" }

[[grant]]
alias = "scanner"
container = "ctm:box"
"#;

/// A network of the host's with a neighbour in it, who knows nothing of containers.
const LAN: &str = "set -e
    ip netns add outside
    ip link add lan0 type veth peer name eth0 netns outside
    ip address add 192.0.2.1/24 dev lan0; ip address add 2001:db8::1/64 dev lan0 nodad; ip link set lan0 up
    ip -n outside address add 192.0.2.254/24 dev eth0; ip -n outside address add 2001:db8::fe/64 dev eth0 nodad
    ip -n outside link set eth0 up";

/// How long is waited for what comes at once.
const WAIT: Duration = Duration::from_secs(60);

const IDLE: &str =
    "--tar /srv/rootfs.tar --init /bin/sh -c \"trap 'exit 0' TERM; while :; do sleep 1000 & wait; done\"";

/// Pings each of the addresses that follow.
const REACH: &str = "reach() { for one; do ping -c 1 -W 5 $one >/dev/null || { echo no answer from $one; return 1; }; done; }";

pub(super) fn run(lab: &Lab) -> Result<()> {
    let vm = lab.restore()?;
    vm.ok(LAN)?;
    let scanner = Gadget::scanner(&vm, "epson")?;
    scanner.plug(Controller::First)?;
    let broker = Broker::start(&vm, CONFIGURATION)?;
    broker.settle()?;
    vm.ok(&format!(
        "ctm create box --ip 192.0.2.10 --ip 2001:db8::10 --copy {IDLE} && cp /shared/probe /var/lib/ctm/box/rootfs/bin/
        ctm create plain-container --privileged-root --ip 192.0.2.11 --ip 2001:db8::11 {IDLE}"
    ))?;
    let boxed = Container::existing(&vm, "box");
    let plain = Container::existing(&vm, "plain-container");
    refused_without_filter(&vm)?;
    told_of_forwarding(&vm)?;
    reached(&vm, &boxed, &plain)?;
    nobody_else_s(&vm)?;
    let plain = Container::existing(&vm, "plain");
    changed(&vm, &boxed, &plain)?;
    held_to_its_own(&vm, &boxed)?;
    filled_by_its_root(&vm, &boxed)?;
    nothing_left(&vm)?;
    boxed.destroy()?;
    plain.destroy()?;
    broker.stop()
}

/// Without what the filter needs nothing starts, and nothing is left of it.
fn refused_without_filter(vm: &Vm) -> Result<()> {
    let tc = vm.ok("command -v tc")?;
    let said = vm.fails(&format!(
        "mv {tc} /root/tc; code=0; ctm start box || code=$?; mv /root/tc {tc}; exit $code"
    ))?;
    ensure!(
        said.status == 53 && said.stderr.contains("install the package iproute2"),
        "{said:?}"
    );
    let said = vm.fails(&format!(
        "printf '#!/bin/sh\\necho Error: TC classifier not found. >&2; exit 1\\n' >/root/tc; chmod +x /root/tc; mount --bind /root/tc {tc}
        code=0; ctm start box || code=$?; umount {tc}; exit $code"
    ))?;
    ensure!(
        said.stderr.contains("TC classifier not found") && said.stderr.contains("cls_flower"),
        "{said:?}"
    );
    is_clean(vm)
}

/// The host's settings are the administrator's, who is told.
fn told_of_forwarding(vm: &Vm) -> Result<()> {
    let settings =
        "net.ipv4.ip_forward = 1`, `net.ipv6.conf.all.forwarding = 1`, `net.ipv6.conf.lan0.proxy_ndp = 1";
    let said = vm.ok("ctm start box 2>&1")?;
    ensure!(
        said.contains(settings) && said.contains("/etc/sysctl.d/"),
        "{said}"
    );
    let said = vm.ok("ctm validate")?;
    ensure!(
        said.contains(settings) && said.contains("0 errors, 2 warnings"),
        "{said}"
    );
    vm.ok("echo 1 | tee /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv6/conf/lan0/proxy_ndp")?;
    let said = vm.ok("ctm start plain-container 2>&1; ctm validate")?;
    ensure!(said == "2 definitions and 0 profiles: nothing is wrong", "{said}");
    Ok(())
}

/// Everybody reaches everybody.
fn reached(vm: &Vm, boxed: &Container, plain: &Container) -> Result<()> {
    let all =
        "192.0.2.1 192.0.2.10 192.0.2.11 192.0.2.254 2001:db8::1 2001:db8::10 2001:db8::11 2001:db8::fe";
    // Its own applets: the small root has all of them.
    boxed.ok(&format!("{REACH}; reach {all}"))?;
    plain.ok(&format!("{REACH}; reach {all}"))?;
    vm.ok(&format!(
        "{REACH}; ping() {{ busybox ping \"$@\"; }}; reach {all}; ping() {{ ip netns exec outside busybox ping \"$@\"; }}
        ip -n outside link set lo up; reach {all}"
    ))?;
    // The one sees the other under its own address.
    let listener = vm.start_job(
        "exec ctm exec plain-container -- nc -l -p 80 -e grep -h 0A0200C0 /proc/net/tcp /proc/net/tcp6",
    )?;
    let seen = boxed.ok("until nc 192.0.2.11 80 >/tmp/seen 2>/dev/null; do :; done; cat /tmp/seen")?;
    ensure!(
        seen.lines().count() == 1 && seen.contains("0B0200C0:0050 "),
        "{seen}"
    );
    listener.wait(WAIT)?;
    let shown =
        vm.ok("ctm list -H -o name,ip; ctm status box | grep ' ip: '; ctm config box | grep '^ip'")?;
    ensure!(
        shown.contains("192.0.2.10 2001:db8::10") && shown.contains("ip: 192.0.2.10 2001:db8::10"),
        "{shown}"
    );
    Ok(())
}

/// An address is one container's alone, and not the host's. It stays with its container under another name, and no clone has it.
fn nobody_else_s(vm: &Vm) -> Result<()> {
    for (command, part) in [
        (
            format!("ctm create third --ip 192.0.2.11 {IDLE}"),
            "192.0.2.11 is container plain-container's",
        ),
        (
            "ctm set box 'ip=[\"2001:db8::11\"]'".to_owned(),
            "2001:db8::11 is container plain-container's",
        ),
        (
            "ctm set box 'ip=[\"192.0.2.10\", \"192.0.2.1\"]'".to_owned(),
            "192.0.2.1 is the host's own, on lan0",
        ),
    ] {
        let said = vm.fails(&command)?;
        ensure!(
            said.status == 78 && said.stderr.contains(part),
            "{command}: {said:?}"
        );
    }
    vm.ok("! test -e /var/lib/ctm/third && ! test -e /etc/ctm/containers/third.toml")?;
    vm.ok(&format!(
        "ctm create third {IDLE} && echo 'ip = [\"192.0.2.11\"]' >>/etc/ctm/containers/third.toml"
    ))?;
    let said = vm.fails("ctm start third")?;
    ensure!(
        said.status == 78 && said.stderr.contains("container plain-container's"),
        "{said:?}"
    );
    let said = vm.fails("ctm validate")?;
    ensure!(
        said.stdout
            .contains("192.0.2.11 is container plain-container's as well"),
        "{said:?}"
    );
    vm.ok("ctm destroy --yes third")?;
    vm.ok("ctm stop plain-container && ctm create third --clone plain-container 2>&1 | grep 'stay there' >/dev/null && ! grep ^ip /etc/ctm/containers/third.toml && ctm destroy --yes third
        ctm rename plain-container plain && ctm start plain && ip link show ctm-plain")
        .map(drop)
}

/// An address is changed under way: the other one answers all the time, a device stays open to the container, its neighbour notices
/// nothing. What is there already is not done again.
fn changed(vm: &Vm, boxed: &Container, plain: &Container) -> Result<()> {
    let watch = boxed.watch_open("/dev/devbroker/scanner")?;
    let pings = vm.start_job(
        "ip netns exec outside busybox ping -i 0.2 2001:db8::10 & one=$!; ip netns exec outside busybox ping -i 0.2 192.0.2.11 & two=$!
        echo up; read line; kill -INT $one $two; wait",
    )?;
    pings.wait_for("seq=1", WAIT)?;
    vm.ok("ctm set box 'ip=[\"192.0.2.12\", \"2001:db8::10\"]'")?;
    vm.ok(&format!(
        "{REACH}; ping() {{ ip netns exec outside busybox ping \"$@\"; }}; reach 192.0.2.12 2001:db8::10 && ! ping -c 1 -W 1 192.0.2.10"
    ))?;
    plain.ok(&format!("{REACH}; reach 192.0.2.12"))?;
    boxed.ok(&format!("{REACH}; reach 192.0.2.254 192.0.2.11"))?;
    let again = vm.ok("CTM_LOG=debug ctm set box 'ip=[\"2001:db8::10\", \"192.0.2.12\"]' 2>&1")?;
    ensure!(!again.contains("lines="), "{again}");
    pings.write(b"\n")?;
    pings.wait(WAIT)?;
    let said = pings.stdout();
    ensure!(said.matches(" 0% packet loss").count() == 2, "{said}");
    let seen: Vec<_> = watch.stop()?.into_iter().map(|seen| seen.outcome).collect();
    ensure!(
        !seen.is_empty() && seen.iter().all(|outcome| outcome.starts_with("ok char 189:")),
        "the device was not there for a moment: {seen:?}"
    );
    // What cannot be done is undone, and what its root did to its end is put right.
    let said = vm.fails("ip route add 192.0.2.50 dev lan0; ctm set box 'ip=[\"192.0.2.50\"]'")?;
    ensure!(
        said.stderr.contains("route add 192.0.2.50 dev ctm-box` failed")
            && said.stderr.contains("was not changed"),
        "{said:?}"
    );
    vm.ok("ip route del 192.0.2.50; ! ip neighbour show proxy | grep 192.0.2.50 && grep '\"192.0.2.12\"' /etc/ctm/containers/box.toml")?;
    boxed.ok(&format!(
        "{REACH}; reach 192.0.2.254 2001:db8::fe && ! ip address show dev venet0 | grep 192.0.2.50
        ip link set venet0 down && ip link set venet0 name mine && ip link set mine up"
    ))?;
    vm.ok("ctm set box 'ip=[\"192.0.2.12\", \"2001:db8::10\"]'")?;
    boxed.ok(&format!(
        "{REACH}; reach 192.0.2.254 2001:db8::fe && ! ip link show mine"
    ))?;
    // None at all, and one again.
    vm.ok(
        "ctm set box ip= && ! ip link show ctm-box 2>/dev/null && ctm set box 'ip=[\"2001:db8::10\", \"192.0.2.10\"]'
        ctm set box 'ip=[\"192.0.2.10\"]' && [ $(cat /proc/sys/net/ipv6/conf/ctm-box/disable_ipv6) = 1 ]",
    )?;
    boxed.ok(&format!(
        "{REACH}; reach 192.0.2.254; ! ip -6 address show dev venet0 | grep inet6"
    ))?;
    vm.ok("ctm set box 'ip=[\"192.0.2.10\", \"2001:db8::10\"]'")?;
    boxed
        .ok(&format!("{REACH}; reach 192.0.2.254 2001:db8::fe"))
        .map(drop)
}

/// Its root, who may do what it likes with its own network, sends nothing from an address that it was not given, whatever it puts
/// into a frame.
fn held_to_its_own(vm: &Vm, boxed: &Container) -> Result<()> {
    // The filter has to hold by itself.
    vm.ok("for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$file; done")?;
    let hears =
        ["192.0.2.1:9", "[2001:db8::1]:9"].map(|address| vm.start_job(&format!("exec probe hear {address}")));
    boxed.ok(
        "ip address add 192.0.2.66/32 dev venet0; ip address add 2001:db8::66/128 dev venet0
        while ip -6 address show dev venet0 | grep -q tentative; do :; done",
    )?;
    for (job, [spoofed, own, to]) in hears.into_iter().zip([
        ["192.0.2.66", "192.0.2.10", "192.0.2.1:9"],
        ["[2001:db8::66]", "[2001:db8::10]", "[2001:db8::1]:9"],
    ]) {
        let job = job?;
        job.wait_for("hearing", WAIT)?;
        boxed.ok(&format!(
            "probe send {spoofed}:0 {to} spoofed; probe send {own}:0 {to} own"
        ))?;
        job.wait_for("own", WAIT)?;
        let heard = format!("hearing\n{} own\n", own.trim_matches(['[', ']']));
        ensure!(job.stdout() == heard, "{}", job.stdout());
        job.kill()?;
    }
    let host = vm.ok("cat /sys/class/net/ctm-box/address")?.replace(':', "");
    let mut script = String::from(
        "dropped() { tc -json -s filter show dev ctm-box ingress pref 60000 | grep -o '\"drops\":[0-9]*' | head -n 1 | tr -dc 0-9; }\n",
    );
    // From the container's end to the host's; the sums are not looked at before the filter is.
    let to_host = format!("{host}020000000002");
    let udp = "0007000900090000";
    let v4 = |source: &str, protocol: &str, rest: &str| {
        format!("45000030000100004{protocol}0000{source}c0000201{rest}")
    };
    let own = "c000020a";
    let other = "c0000242";
    let v6 = |source: &str, next: &str, rest: &str| {
        format!(
            "6000000000{:02x}{next}ff{source}20010db8000000000000000000000001{rest}",
            rest.len() / 2
        )
    };
    let link_local = "fe800000000000000000000000000002";
    for (what, frame) in [
        ("another's IPv4 address", format!("0800{}", v4(other, "011", udp))),
        // Where the filter looked at what is inside it would see its own.
        (
            "another's around its own",
            format!("0800{}", v4(other, "004", &v4(own, "011", udp))),
        ),
        (
            "its own in a tagged frame",
            format!("810000070800{}", v4(own, "011", udp)),
        ),
        (
            "its own in a frame tagged with 0",
            format!("810000000800{}", v4(own, "011", udp)),
        ),
        (
            "an IPv4 packet that calls itself IPv6",
            format!("86dd{}", v4(own, "011", udp)),
        ),
        (
            "ARP for another",
            format!("08060001080006040002020000000002{other}{host}a9fe0001"),
        ),
        (
            "another's IPv6 address",
            format!("86dd{}", v6("20010db8000000000000000000000066", "11", udp)),
        ),
        (
            "a router's advertisement",
            format!("86dd{}", v6(link_local, "3a", "86000000400000ff0000000000000000")),
        ),
        (
            "a router's redirect",
            format!("86dd{}", v6(link_local, "3a", "89000000400000ff0000000000000000")),
        ),
        (
            "another's advertisement",
            format!(
                "86dd{}",
                v6("fe800000000000000000000000000003", "3a", "8800000060000000")
            ),
        ),
        ("another protocol", "88b5000000000000".into()),
    ] {
        writeln!(
            script,
            "before=$(dropped); ctm exec box -- probe frame venet0 {to_host}{frame}{} 50 || exit; after=$(dropped)
            [ $((after - before)) -ge 50 ] || {{ echo \"{what}: $before $after\"; exit 1; }}",
            "00".repeat(32)
        )?;
    }
    vm.ok(&script)?;
    // What it was given still goes through.
    boxed.ok(&format!(
        "{REACH}; reach 192.0.2.254 2001:db8::fe && arping -c 1 -w 5 -I venet0 -s 192.0.2.10 169.254.0.1 >/dev/null"
    ))?;
    // The host believes nothing that it says of routes and routers.
    let settings = vm.ok("cd /proc/sys/net; cat ipv4/conf/ctm-box/{accept_redirects,proxy_arp} ipv6/conf/ctm-box/{accept_ra,accept_redirects,autoconf} | xargs")?;
    ensure!(settings == "0 0 0 0 0", "{settings}");
    Ok(())
}

/// Its root can have more in its network than anybody reads: then nothing is changed but taken away.
fn filled_by_its_root(vm: &Vm, boxed: &Container) -> Result<()> {
    let ip = vm.ok("readlink -f $(command -v ip)")?;
    let said = vm.fails(&format!(
        "cp {ip} /root/real-ip
        printf '#!/bin/sh\\n[ $(readlink /proc/self/ns/net) = $(readlink /proc/1/ns/net) ] || exec yes\\nexec /root/real-ip \"$@\"\\n' >/root/ip
        chmod +x /root/ip; mount --bind /root/ip {ip}
        code=0; ctm set box 'ip=[\"192.0.2.12\"]' || code=$?; ctm set box ip= && ! ip link show ctm-box 2>/dev/null || code=0; umount {ip}; exit $code"
    ))?;
    ensure!(
        said.stderr.contains("`ctm restart` gives it a new one"),
        "{said:?}"
    );
    vm.ok("ctm set box 'ip=[\"192.0.2.10\", \"2001:db8::10\"]'")?;
    boxed.ok(&format!("{REACH}; reach 192.0.2.254")).map(drop)
}

/// The process of box' that `state.json` has by a name.
const PID_OF: &str =
    r#"pid_of() { grep -o "\"$1\":{\"pid\":[0-9]*" /run/ctm/box/state.json | grep -o '[0-9]*$'; }"#;

/// Neither a stop nor a killed supervisor nor one that was killed half way leaves anything.
fn nothing_left(vm: &Vm) -> Result<()> {
    vm.ok("ctm stop box && ctm stop plain")?;
    is_clean(vm)?;
    let abandoned = |also: &str| {
        vm.ok(&format!(
            "{PID_OF}; ctm start box; for who in supervisor {also}; do kill -9 $(pid_of $who); done"
        ))?;
        vm.until("ctm list -H -o state | grep -q abandoned")?;
        vm.ok("ip -json neighbour show proxy | grep 192.0.2.10")
    };
    abandoned("")?;
    vm.ok("ctm stop box")?;
    is_clean(vm)?;
    // The link goes with the container's network, at the kernel's own time, also while it is taken away. Whoever has the network open
    // keeps it until then.
    let ip = vm.ok("readlink -f $(command -v ip)")?;
    vm.ok(&format!(
        "{PID_OF}; ctm start box; exec 9</proc/$(pid_of init)/ns/net; for who in supervisor init; do kill -9 $(pid_of $who); done
        until ctm list -H -o state | grep -q abandoned; do sleep 0.02; done; cp {ip} /root/real-ip
        printf '#!/bin/sh\\n[ $1 = -json ] || [ -e /root/gone ] || {{ /root/real-ip link delete ctm-box; touch /root/gone; }}\\nexec /root/real-ip \"$@\"\\n' >/root/ip
        chmod +x /root/ip; mount --bind /root/ip {ip}; code=0; ctm start box || code=$?; umount {ip}; ctm stop box; exit $code"
    ))?;
    is_clean(vm)?;
    // What became another's meanwhile stays there.
    abandoned("init")?;
    vm.until("! ip link show ctm-box 2>/dev/null")?;
    vm.ok(
        "ctm set box 'ip=[\"2001:db8::10\"]' && ctm set plain 'ip=[\"192.0.2.10\"]' && ctm start plain && ctm stop box
        ip neighbour show proxy | grep 192.0.2.10 && ctm stop plain",
    )?;
    is_clean(vm)?;
    vm.ok("ctm set plain ip= && ctm set box 'ip=[\"192.0.2.10\", \"2001:db8::10\"]'")?;
    for at in ["link", "filter", "route", "neighbour"] {
        vm.fails(&format!("CTM_FAIL_POINT=network:{at} ctm start box"))?;
    }
    vm.ok("ctm start box && ctm exec box -- ping -c 1 -W 5 192.0.2.254")?;
    vm.fails("CTM_FAIL_POINT=network:filter ctm set box 'ip=[\"192.0.2.12\"]'")?;
    vm.fails("CTM_FAIL_POINT=network:route ctm set box 'ip=[\"192.0.2.12\"]'")?;
    vm.ok("ctm stop box")?;
    is_clean(vm)
}

/// The host is as it was before any container.
fn is_clean(vm: &Vm) -> Result<()> {
    let left = vm.ok("ip link show | grep ctm- || true; ip route show table all | grep -E '192.0.2.1[0-9] |2001:db8::1[0-9] ' || true; ip neighbour show proxy")?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

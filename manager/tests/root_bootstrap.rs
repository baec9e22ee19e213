//! The real debootstrap, on a mirror that is made here of packages of a few lines: what it needs of a Debian and no more, with the
//! host's own dpkg in it. Needs root, debootstrap, dpkg and busybox; a test that lacks them fails.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what fails in a test panics"
)]

mod room;

use room::printed;

/// Makes `$M`, a mirror that nobody signed, and hides mmdebstrap. `distro` makes a container out of it. The package `slow` waits
/// while it is installed if `$SLOW` says for how long, `broken` cannot be installed.
const MIRROR: &str = r#"
mkdir $TMP/usr $TMP/work; mount -t overlay -o lowerdir=/usr/bin,upperdir=$TMP/usr,workdir=$TMP/work x /usr/bin; rm -f /usr/bin/mmdebstrap
M=$TMP/mirror; P=$TMP/packages; arch=$(dpkg --print-architecture); index=$M/dists/trixie/main/binary-$arch
mkdir -p $M/pool $index $P/base-files/dev $P/base-files/etc/apt $P/base-files/var/log $P/base-files/tmp $P/base-files/root $P/base-files/proc $P/base-files/sys $P/base-files/run
for folder in bin sbin lib lib64; do mkdir -p $P/base-files/usr/$folder; ln -s usr/$folder $P/base-files/$folder; done
mkdir -p $P/base-passwd/etc; echo root:x:0:0::/root:/bin/sh >$P/base-passwd/etc/passwd; echo root:x:0: >$P/base-passwd/etc/group
mkdir -p $P/coreutils/usr/bin; cp -L $ROOTFS/bin/busy* $P/coreutils/usr/bin/
for applet in sh sleep cat ls rm mv cp ln mkdir true diff env; do ln -s busyb''ox $P/coreutils/usr/bin/$applet; done
mkdir -p $P/tar/usr/bin $P/dpkg/usr/bin $P/dpkg/usr/sbin $P/libc6/usr/sbin $P/mawk/usr/bin $P/init/usr/sbin $P/extra/etc
for folder in info updates triggers parts; do mkdir -p $P/dpkg/var/lib/dpkg/$folder; done
cp $(command -v tar) $P/tar/usr/bin/; for program in dpkg dpkg-deb dpkg-query dpkg-split; do cp $(command -v $program) $P/dpkg/usr/bin/; done
for program in dpkg/usr/sbin/start-stop-daemon libc6/usr/sbin/ldconfig; do echo '#!/bin/sh' >$P/$program; chmod 755 $P/$program; done
for library in $(ldd $P/dpkg/usr/bin/* $P/tar/usr/bin/tar | grep -o '/[^ :]*lib[^ :]*' | sort -u); do case $library in $TMP/*) continue;; esac
at=$P/libc6/usr/${library#/}; case $library in /usr/*) at=$P/libc6$library;; esac; mkdir -p ${at%/*}; cp -L $library $at; done
ln -s busyb''ox $P/mawk/usr/bin/mawk; ln -s ../bin/sleep $P/init/usr/sbin/init; echo extra >$P/extra/etc/extra
for name in base-files base-passwd coreutils dpkg tar libc6 mawk perl-base apt init extra slow broken; do mkdir -p $P/$name/DEBIAN
case $name in apt|init|extra|slow|broken) priority=optional;; *) priority=required;; esac
case $name in slow) echo '#!/bin/sh
[ -z "$SLOW" ] || { : >/middle; sleep $SLOW; }' >$P/slow/DEBIAN/postinst;; broken) echo '#!/bin/sh
echo it is broken; exit 7' >$P/broken/DEBIAN/postinst;; esac
chmod -f 755 $P/$name/DEBIAN/postinst || true
printf 'Package: %s\nVersion: 1\nArchitecture: all\nPriority: %s\nMaintainer: Nobody <nobody@example.org>\nDescription: for a test\n' $name $priority >$P/$name/DEBIAN/control
dpkg-deb --root-owner-group -Znone -b $P/$name $M/pool/$name.deb >/dev/null
{ cat $P/$name/DEBIAN/control; echo Filename: pool/$name.deb; echo Size: $(stat -c %s $M/pool/$name.deb)
echo SHA256: $(sha256sum $M/pool/$name.deb | cut -d' ' -f1); echo; } >>$index/Packages; done
cd $M/dists/trixie; gzip -k main/binary-$arch/Packages
{ printf 'Suite: testing\nCodename: trixie\nArchitectures: %s\nComponents: main\nSHA256:\n' $arch
for file in main/binary-$arch/Packages main/binary-$arch/Packages.gz; do echo " $(sha256sum $file | cut -d' ' -f1) $(stat -c %s $file) $file"; done; } >Release
cd /; trusted="deb [trusted=yes] copy:$M trixie main"
distro() { name=$1; shift; ctm create $name --distro debian:trixie --variant minbase --mirror "${mirror:-$trusted}" "$@" --init /bin/sleep infinity; }
code() { code=0; "$@" >$TMP/said 2>&1 || code=$?; echo $code; }
left() { ls -A /var/lib/ctm/.bases | sed 's/-.*//'; ls /etc/ctm/containers 2>/dev/null || true; grep .bases /proc/self/mountinfo || true; pgrep -f "debootstrap .*$TMP" || true; }
"#;

/// A root has what its packages are and what makes it fit, and of their installation nothing is left in it; the next container is
/// made without the mirror.
#[test]
fn a_distribution_by_debootstrap() {
    let out = printed(
        "strapped",
        &format!(
            "{MIRROR}\
             code distro box1 --package extra --package slow; grep -v -e ^created -e ^looking $TMP/said || true\n\
             mv $M $M.away; code distro box2 --package extra --package slow --no-userns; ctm images --json | grep what\n\
             for n in 1 2; do ctm start box$n 2>/dev/null; done; at() {{ ctm exec box1 -- \"$@\"; }}\n\
             at cat /etc/hostname /etc/extra; at cat /etc/apt/sources.list | sed s,$TMP,TMP,; at ls /; at ls /var/cache/apt/archives /usr/sbin\n\
             at dpkg --get-selections | tr -s '\\t' ' '; ctm exec box2 -- cat /etc/hostname; for n in 1 2; do ctm stop box$n; done"
        ),
    );
    assert_eq!(
        out,
        "0\ninstalling debian:trixie with debootstrap\n0\n\x20   \"what\": \"debian:trixie amd64 minbase +extra +init +slow\",\n\
         box1\nextra\ndeb [trusted=yes] copy:TMP/mirror trixie main\n\
         bin\ndev\netc\nlib\nlib64\nproc\nroot\nrun\nsbin\nsys\ntmp\nusr\nvar\n\
         /usr/sbin:\ninit\nldconfig\nstart-stop-daemon\n\n/var/cache/apt/archives:\npartial\n\
         apt install\nbase-files install\nbase-passwd install\ncoreutils install\ndpkg install\nextra install\ninit install\n\
         libc6 install\nmawk install\nperl-base install\nslow install\ntar install\nbox2\n"
    );
}

/// What apt has fetched on the host is not fetched again, if it is what the mirror has, and the host's packages stay as they are.
#[test]
fn packages_that_the_host_has() {
    let out = printed(
        "precious",
        &format!(
            "{MIRROR}\
             had=/var/cache/apt/archives; mount -t tmpfs had $had; mkdir $had/partial; mv $M/pool/extra.deb $had/extra_1_all.deb; before=$(sha256sum $had/*.deb)\n\
             code distro box1 --package extra; ctm start box1 2>/dev/null; ctm exec box1 -- cat /etc/extra; ctm exec box1 -- ls -A $had; ctm stop box1\n\
             [ \"$before\" = \"$(sha256sum $had/*.deb)\" ] && ls $had; ls /var/lib/ctm/.bases/*; echo other >>$had/extra_1_all.deb\n\
             code distro box2 --fresh --package extra; grep -o 'download.*extra' $TMP/said; left | grep -v '^[0-9a-f]*$'"
        ),
    );
    assert_eq!(
        out,
        "0\nextra\npartial\nextra_1_all.deb\npartial\nbase.json\nrootfs\n110\ndownload packages: extra\nbox1.toml\n"
    );
}

/// What cannot be installed is told with its reason and its code, and leaves nothing.
#[test]
fn what_debootstrap_cannot_install() {
    let out = printed(
        "unstrapped",
        &format!(
            "{MIRROR}\
             try() {{ code \"$@\"; sed \"/^installing/d;/^looking/d;s,$TMP,TMP,g\" $TMP/said; left; }}\n\
             mirror=file://$M; try distro box; mirror=\"deb copy:$M ./\"; try distro box; mirror=; try distro box --package broken; try distro box --package none\n\
             mv $M/pool $M/away; try distro box; mv $M/away $M/pool; mirror=file:/nowhere; try distro box; mirror=\n\
             mkdir -p /var/lib/ctm; mount -t tmpfs -o size=9m small /var/lib/ctm; try distro box; mount -o remount,size=99m /var/lib/ctm; code distro box"
        ),
    );
    let cannot = "ctm: cannot create container box: cannot make its base system:";
    let network = "check the network, --mirror, and the proxy in `apt-config dump Acquire::http::Proxy`";
    assert_eq!(
        out.split_once(".new-")
            .map(|(before, after)| format!("{before}{}", &after[16..]))
            .unwrap(),
        format!(
            "1\n{cannot} cannot tell whether the packages of debian:trixie are genuine: E: Failed getting release signature file \
             file://TMP/mirror/dists/trixie/Release.gpg; install the distribution's keyring (debian-archive-keyring), or say of a \
             mirror of your own what its key is or that it is trusted: --mirror \"deb [signed-by=FILE] URL trixie main\" or \
             \"deb [trusted=yes] ...\"\n\
             1\nctm: debootstrap cannot use the mirror `deb copy:TMP/mirror ./`: its suite is `./`, which is not the distribution's; \
             say otherwise, or `apt install mmdebstrap`, which can\n\
             1\n{cannot} debootstrap failed (exit status: 1): installed broken package post-installation script subprocess returned \
             error exit status 7; Errors were encountered while processing:; broken\n\
             1\n{cannot} debootstrap failed (exit status: 1): E: Couldn't find these debs: none\n\
             110\n{cannot} cannot reach the packages of debian:trixie: E: Couldn't download packages: apt base-files base-passwd \
             coreutils dpkg init libc6 mawk perl-base tar; {network}\n\
             110\n{cannot} cannot reach the packages of debian:trixie: E: Failed getting release file \
             file:/nowhere/dists/trixie/Release; {network}\n\
             46\n{cannot} no room left on the disk for /var/lib/ctm/.bases//rootfs; make room, then try again\n0\n"
        )
    );
}

/// ctm or debootstrap is ended in the middle: nothing goes on, nothing stays, and the next creation is as the first.
#[test]
fn debootstrap_is_interrupted() {
    let out = printed(
        "strapoff",
        &format!(
            "{MIRROR}\
             middle() {{ for root in /var/lib/ctm/.bases/.new-*/rootfs; do [ ! -e $root/middle ] || return 0; done; return 1; }}\n\
             long=9$(printf %07d $$); begin() {{ SLOW=$long distro box --package slow >$TMP/said 2>&1 & ctm=$!; until middle; do :; done; }}\n\
             ends() {{ code=0; wait $ctm || code=$?; echo $code; grep -o 'interrupted; .*' $TMP/said || true; while pgrep -f \"sleep $long\" >/dev/null; do :; done; left; }}\n\
             for how in INT TERM KILL; do begin; kill -$how $(pgrep -P $ctm -x ctm || echo $ctm); ends; ctm images prune | tail -1; left; done\n\
             begin; kill -KILL $(pgrep -of \"^/bin/sh /usr/sbin/debootstrap .*$TMP\"); ends; grep -q 'debootstrap failed' $TMP/said\n\
             code distro box --package slow; ctm start box 2>/dev/null; ctm exec box -- ls /middle 2>/dev/null || echo whole; ctm stop box; left"
        ),
    );
    let told = "130\ninterrupted; nothing was left behind, and it can be tried again\n0 B freed\n";
    let (ended, whole) = out
        .split_once("\n0\nwhole\n")
        .expect("the last creation is whole");
    assert_eq!(ended, format!("{told}{told}137\n.new\n0 B freed\n1"));
    // One base and one definition.
    assert_eq!(whole.lines().count(), 2, "{whole}");
}

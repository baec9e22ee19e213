//! Making containers on the real kernel: archives, shared base systems, clones, interruptions. Needs root, crun, busybox and
//! the usual packers; a test that lacks them fails.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what fails in a test panics"
)]

mod room;

use room::printed;

/// A definition's `base`, the files of a base, and a container that sleeps.
const TOOLS: &str = "
base() { sed -n 's/^base = \"\\(.*\\)\"/\\1/p' /etc/ctm/containers/$1.toml; }
sleeper() { ctm create \"$@\" --init /bin/sleep infinity >/dev/null 2>&1; }
code() { code=0; \"$@\" >$TMP/said 2>&1 || code=$?; echo $code; }
";

fn told(name: &str, text: &str) -> String {
    printed(name, &format!("{TOOLS}{text}"))
}

/// Makes `$TMP/evil.tar`.
const EVIL: &str = r"
import io, os, tarfile
out = os.environ['TMP'] + '/out'
tar = tarfile.open(os.environ['TMP'] + '/evil.tar', 'w')
def add(name, kind=tarfile.REGTYPE, data=b'', link='', mode=0o755, uid=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(data)
    info.uid = info.gid = uid
    info.devmajor, info.devminor = 10, 237
    tar.addfile(info, io.BytesIO(data))
add('bin', tarfile.DIRTYPE)
add('../escaped', data=b'x')
add(out + '/absolute', data=b'x')
add('up', tarfile.SYMTYPE, link=out)
add('up/through', data=b'x')
add('rel', tarfile.SYMTYPE, link='../../../../../../../..' + out)
add('rel/through', data=b'x')
add('hard', tarfile.LNKTYPE, link=out + '/none')
add('secret', tarfile.LNKTYPE, link=out + '/../secret')
add('node', tarfile.CHRTYPE, mode=0o666)
add('bin/disk', tarfile.BLKTYPE, mode=0o666)
add('bin/su', data=b'x', mode=0o6755)
tar.close()
";

/// A hostile archive: names that lead out, links that lead out and are written through, hard links, device nodes.
#[test]
fn a_hostile_archive() {
    for copy in ["", "--copy"] {
        let out = told(
            "hostile",
            &format!(
                "mkdir $TMP/out; echo s >$TMP/secret; cat >$TMP/evil.py <<'EOF'\n{EVIL}\nEOF\n\
                 python3 $TMP/evil.py\n\
                 code ctm create box {copy} --tar $TMP/evil.tar; grep -o 'cannot create container box: .*cannot unpack' $TMP/said\n\
                 ls -A $TMP/out; stat -c %h $TMP/secret\n\
                 find /var/lib/ctm -type b -o -type c\n\
                 find / -xdev -name escaped 2>/dev/null || true; find /var/lib /etc/ctm -name escaped -o -name su | head -1\n\
                 ls -A /var/lib/ctm /var/lib/ctm/.bases /etc/ctm 2>/dev/null || true"
            ),
        );
        assert!(out.starts_with("1\ncannot create container box: "), "{out}");
        let left = out.split_once("cannot unpack\n").unwrap().1;
        let bases = "1\n/etc/ctm:\n\n/var/lib/ctm:\n.bases\n\n/var/lib/ctm/.bases:\n";
        assert_eq!(
            left,
            if copy.is_empty() {
                bases
            } else {
                "1\n/etc/ctm:\n\n/var/lib/ctm:\n"
            }
        );
    }
}

/// The same without what makes tar give up: owners are shifted, set-id bits stay, nodes are gone, links stay links.
#[test]
fn an_archive_is_given_to_the_container() {
    let out = told(
        "given",
        "mkdir -p $TMP/a/bin $TMP/a/dev; cd $TMP/a; ln -s /etc/passwd link; : >suid; chmod 6755 suid; : >mine; chown 7:8 mine\n\
         mknod -m 666 node c 10 237; mknod dev/null c 1 3; mkfifo fifo; ln suid hard\n\
         for kind in '' z j J --zstd; do rm -f $TMP/a.tar; case $kind in --*) tar -C $TMP/a $kind -cf $TMP/a.tar .;;\n\
         *) tar -C $TMP/a -c${kind}f $TMP/a.tar .;; esac; ctm create box --copy --tar $TMP/a.tar >/dev/null 2>&1\n\
         cd /var/lib/ctm/box/rootfs; stat -c '%n %u %g %a %h' bin dev dev/* fifo hard link mine node suid 2>/dev/null || true\n\
         stat -c '%u %g %a' ..; cd /; ctm destroy box --yes; done",
    );
    let once = "bin 1073741824 1073741824 755 1\ndev 1073741824 1073741824 755 1\nfifo 1073741824 1073741824 644 1\n\
                hard 1073741824 1073741824 6755 2\nlink 1073741824 1073741824 777 1\n\
                mine 1073741831 1073741832 644 1\nsuid 1073741824 1073741824 6755 2\n0 1073741824 710\n";
    // Folders count their links differently from one file system to the next.
    let shown = out
        .replace("755 2\ndev", "755 1\ndev")
        .replace("755 2\nfifo", "755 1\nfifo");
    assert_eq!(shown, once.repeat(5));
}

/// Two containers on one base, with and without a user namespace, and a third by another name of the archive: one copy on
/// disk; each sees the base as its own, and what it changes is its own.
#[test]
fn a_base_is_shared() {
    let out = told(
        "shared",
        "head -c 20000000 /dev/urandom >$ROOTFS/big; : >$ROOTFS/owned; chown 7:8 $ROOTFS/owned\n\
         tar -C $ROOTFS -cf $TMP/a.tar .; cp $TMP/a.tar $TMP/b.tar; \n\
         sleeper box1 --tar $TMP/a.tar; sleeper box2 --no-userns --tar $TMP/b.tar; sleeper box3 --tar $TMP/a.tar\n\
         [ $(du -sm /var/lib/ctm | cut -f1) -lt 25 ] && echo one copy\n\
         ls /var/lib/ctm/.bases | wc -l; stat -c '%u %a' /var/lib/ctm/.bases\n\
         grep /var/lib/ctm /proc/self/mountinfo || true\n\
         for n in 1 2 3; do ctm start box$n 2>/dev/null; done\n\
         at() { n=$1; shift; ctm exec box$n -- \"$@\"; }\n\
         for n in 1 2 3; do at $n stat -L -c '%n %u %g %a' / /owned /bin/sh; done\n\
         at 1 sh -c 'echo one >/etc/mine; echo x >>/owned; rm /big'; at 2 sh -c 'echo two >/etc/mine; rm -r /etc/passwd'\n\
         at 3 ls /big /etc; at 1 stat -c '%u %g' /owned /etc/mine; at 2 cat /etc/mine\n\
         stat -c '%u %g' /var/lib/ctm/box1/upper/owned /var/lib/ctm/box1/upper/etc/mine /var/lib/ctm/box2/upper/etc/mine\n\
         ctm images | sed -n '2s/ \\+/ /gp' | cut -d' ' -f2,3,4,7-\n\
         for n in 1 2 3; do ctm stop box$n; done; grep /var/lib/ctm /proc/self/mountinfo || true\n\
         ctm start box1 2>/dev/null; at 1 cat /etc/mine; at 1 ls /big 2>/dev/null || echo gone; ctm stop box1\n\
         ctm images prune --all | tail -1; for n in 1 2 3; do ctm destroy box$n --yes; done\n\
         ctm images prune 2>&1 | sed 's/: .*;/: ID;/' | tail -2; ctm images prune --all | cut -d' ' -f1 | tail -2; ls -A /var/lib/ctm /var/lib/ctm/.bases | grep -v booted\n",
    );
    let root = "/ 0 0 755\n/owned 7 8 644\n/bin/sh 0 0 755\n".repeat(3);
    let mut lines: Vec<_> = out.lines().collect();
    // Its size depends on busybox and the file system.
    let listed = lines
        .iter()
        .position(|line| line.starts_with("a.tar "))
        .expect("the base is listed");
    let image = lines.remove(listed);
    assert!(image.ends_with("MiB box1, box2, box3"), "{image}");
    let freed = lines[lines.len() - 9..].join("\n");
    assert!(freed.starts_with("0 B freed\n0 B freed\nkept, as made less than a day ago and perhaps wanted again: ID; --all removes these as well\nremoved\n2"), "{freed}");
    lines.truncate(lines.len() - 9);
    assert_eq!(
        lines.join("\n"),
        format!(
            "one copy\n1\n0 700\n{root}/big\n\n/etc:\ngroup\npasswd\n7 8\n0 0\ntwo\n\
             1073741831 1073741832\n1073741824 1073741824\n0 0\none\ngone"
        )
    );
}

/// Where layers do not work there is a copy, and with --copy in any case.
#[test]
fn a_copy_where_it_is_wanted() {
    let out = told(
        "copied",
        "tar -C $ROOTFS -cf $TMP/a.tar .; sleeper box --copy --tar $TMP/a.tar; base box; ls /var/lib/ctm/box\n\
         ctm start box 2>/dev/null; ctm exec box -- id -u; ctm stop box; ctm destroy box --yes; ls /var/lib/ctm",
    );
    assert_eq!(out, "rootfs\n0\n");
}

/// A clone has what its model has, under ids of its own, and neither sees what the other changes then.
#[test]
fn clones() {
    for copy in ["--copy", ""] {
        let out = told(
            "cloned",
            &format!(
                ": >$ROOTFS/owned; chown 7:8 $ROOTFS/owned; tar -C $ROOTFS -cf $TMP/a.tar .; sleeper box1 {copy} --tar $TMP/a.tar\n\
                 echo '# mine' >>/etc/ctm/containers/box1.toml; ctm set box1 stop_timeout=7 start=boot 2>/dev/null\n\
                 ctm start box1 2>/dev/null; code ctm create box2 --clone box1\n\
                 ctm exec box1 -- sh -c 'echo 1 >/new; rm -r /etc/passwd'; ctm exec box1 -- sh -c 'cp /bin/sh /su; chmod 4755 /su'\n\
                 ctm stop box1; ctm create box2 --clone box1 >/dev/null 2>&1\n\
                 ctm create box3 --clone box1 --no-userns --copy --hostname three >/dev/null 2>&1\n\
                 for n in 1 2 3; do ctm start box$n 2>/dev/null; done; ctm exec box2 -- sh -c 'echo 2 >/new'\n\
                 for n in 1 2 3; do ctm exec box$n -- sh -c 'cat /new; ls /etc; stat -c \"%u %g %a\" /owned /su /'; ctm stop box$n; done\n\
                 grep -hE '^(#|userns|hostname|start|stop_timeout)' /etc/ctm/containers/box[23].toml | grep -v '^# [WHEIT]'\n\
                 [ \"$(base box1)\" = \"$(base box2)\" ] && echo same base; base box3; ls /var/lib/ctm/box3\n\
                 code ctm create box4 --clone none; cat $TMP/said"
            ),
        );
        let inside = "group\n7 8 644\n0 0 4755\n0 0 755\n";
        assert_eq!(
            out,
            format!(
                "32\n1\n{inside}2\n{inside}1\n{inside}\
                 # Container box2; see ctm(8).\nuserns = {{ first = 1073807360, count = 65536 }}\nhostname = \"box2\"\nstop_timeout = 7\nstart = \"manual\"\n# mine\n\
                 # Container box3; see ctm(8).\nuserns = false\nhostname = \"three\"\nstop_timeout = 7\nstart = \"manual\"\n# mine\n\
                 same base\nrootfs\n14\nctm: there is no container none; `ctm list` shows those that there are\n"
            ),
            "{copy}"
        );
    }
}

/// What cannot be made is refused with its code, says what to do, and leaves nothing.
#[test]
fn what_is_refused() {
    let out = told(
        "refused",
        "try() { code ctm create box \"$@\"; sed \"/^unpacking/d;/^looking/d;s,$TMP,TMP,g;q\" $TMP/said; }\n\
         printf 'ctm:200000:1000\\n' >$TMP/subuid; mount --bind $TMP/subuid /etc/subuid; mount --bind $TMP/subuid /etc/subgid\n\
         tar -C $ROOTFS -cf $TMP/a.tar .\n\
         try --tar $TMP/none.tar; try --rootfs $TMP/none; try --tar $ROOTFS; try --rootfs $TMP/a.tar; try --rootfs /\n\
         try --tar $TMP/a.tar; umount /etc/subuid /etc/subgid\n\
         try --tar $TMP/a.tar --hostname a..b; try --tar $TMP/a.tar --profile none\n\
         : >$ROOTFS/far; chown 70000 $ROOTFS/far; tar -C $ROOTFS -cf $TMP/far.tar .; try --tar $TMP/far.tar\n\
         ls -A /var/lib/ctm; ls /etc/ctm/containers 2>/dev/null || true; ctm images prune --all | tail -1 | cut -d' ' -f2",
    );
    assert_eq!(
        out,
        "53\nctm: cannot find TMP/none.tar: No such file or directory (os error 2)\n\
         53\nctm: cannot find TMP/none: No such file or directory (os error 2)\n\
         1\nctm: TMP/rootfs is a folder; give it with --rootfs\n\
         1\nctm: TMP/a.tar is no folder; give an archive with --tar\n\
         1\nctm: the host's own root file system cannot be a container's\n\
         6\nctm: no 65536 host ids are free for a user namespace; add `ctm:FIRST:COUNT` to /etc/subuid and /etc/subgid, or use --no-userns\n\
         1\nctm: cannot create container box: /etc/ctm/containers/box.toml:9:12: error: `a..b` is no host name\n\
         109\nctm: cannot create container box: /etc/ctm/containers/box.toml names the profile none, and there is no /etc/ctm/profiles/none.toml\n\
         1\nctm: cannot create container box: /far belongs to id 70000, and a container has ids 0 to 65535; \
         change its owner, or use --no-userns\n.bases\nMiB\n"
    );
}

/// A disk that becomes full while a base or a copy is made: its own code, nothing left, and room enough again.
#[test]
fn a_full_disk() {
    let out = told(
        "full",
        "head -c 6000000 /dev/urandom >$ROOTFS/big; tar -C $ROOTFS -cf $TMP/a.tar .\n\
         mkdir -p /var/lib/ctm; mount -t tmpfs -o size=5m small /var/lib/ctm\n\
         for how in '--tar $TMP/a.tar' '--copy --tar $TMP/a.tar' '--rootfs $ROOTFS'; do\n\
         code eval ctm create box $how; grep -o 'no room left on the disk for.*' $TMP/said\n\
         ls /etc/ctm/containers 2>/dev/null || true; ls /var/lib/ctm; df --output=used /var/lib/ctm | tail -1 | tr -d ' '; done\n\
         mount -o remount,size=50m /var/lib/ctm; code ctm create box --tar $TMP/a.tar; ls /var/lib/ctm",
    );
    let once =
        |at| format!("46\nno room left on the disk for /var/lib/ctm/{at}; make room, then try again\n0\n");
    let base = out.split(".new-").nth(1).unwrap().get(..16).unwrap().to_owned();
    assert_eq!(
        out.replace(&base, "ID"),
        format!(
            "{}{}{}0\nbox\n",
            once(".bases/.new-ID/rootfs"),
            once("box/rootfs"),
            once("box/rootfs")
        )
    );
}

/// ctm is killed after each step: what it leaves is no container, and the next create goes through as if nothing had been.
#[test]
fn creation_killed_after_each_step() {
    let out = told(
        "halfway",
        "tar -C $ROOTFS -cf $TMP/a.tar .\n\
         try() { point=$1; shift; if CTM_FAIL_POINT=after:$point ctm create box \"$@\" >/dev/null 2>&1; then echo $point: not reached; fi\n\
         case $point in define|part) ctm status box | head -1;; *) ctm status box >/dev/null 2>&1 || echo $point $?\n\
         ctm create box \"$@\" >/dev/null 2>&1 || echo $point: not again;; esac\n\
         ctm start box 2>$TMP/err && ctm stop box || cat $TMP/err\n\
         grep /var/lib/ctm /proc/self/mountinfo || true; ctm destroy box --yes; ls -A /var/lib/ctm /etc/ctm/containers | grep -v -e : -e '^$' -e booted || true; }\n\
         for point in store copy own define; do try $point --rootfs $ROOTFS --init /bin/sleep 1000; done\n\
         for point in draft unpack own publish store layers define part; do try $point --tar $TMP/a.tar --init /bin/sleep 1000\n\
         ls -A /var/lib/ctm/.bases | wc -l; ctm images prune --all >/dev/null; ls -A /var/lib/ctm/.bases; rmdir /var/lib/ctm/.bases; done",
    );
    let copied = "store 14\ncopy 14\nown 14\nbox: stopped\n";
    let shared: String = [
        "draft 14",
        "unpack 14",
        "own 14",
        "publish 14",
        "store 14",
        "layers 14",
        "box: stopped",
        "box: stopped",
    ]
    .map(|line| format!("{line}\n.bases\n1\n"))
    .concat();
    assert_eq!(out, format!("{copied}{shared}"));
}

/// SIGINT and SIGTERM end a creation with its own code, and nothing is left, nor does `tar` go on.
#[test]
fn an_interrupted_creation() {
    let out = told(
        "cutoff",
        "tar -C $ROOTFS -cf $TMP/a.tar .; mkdir $TMP/bin\n\
         printf '#!/bin/sh\\necho $$ >$TMP/pid; exec sleep 1000\\n' >$TMP/bin/tar; chmod 755 $TMP/bin/tar\n\
         for how in INT TERM KILL; do mkfifo $TMP/f$how; rm -f $TMP/pid\n\
         PATH=$TMP/bin:$PATH python3 -c 'import os,signal,sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(\"ctm\", sys.argv[1:])' \
         ctm create box --tar $TMP/a.tar >/dev/null 2>$TMP/said & ctm=$!\n\
         until [ -s $TMP/pid ]; do :; done; kill -$how $ctm; code=0; wait $ctm || code=$?; echo $code\n\
         grep -o 'interrupted; .*' $TMP/said || true; while [ -e /proc/$(cat $TMP/pid) ]; do :; done\n\
         ls -A /var/lib/ctm/.bases | sed 's/-.*//'; ctm images prune | tail -1; ls -A /var/lib/ctm/.bases; done\n\
         ctm create box --tar $TMP/a.tar >/dev/null 2>&1; ctm status box | head -1",
    );
    let told = "130\ninterrupted; nothing was left behind, and it can be tried again\n0 B freed\n";
    assert_eq!(out, format!("{told}{told}137\n.new\n0 B freed\nbox: stopped\n"));
}

/// Makes `$TMP/mirror`, a repository of two packages: `tiny` is `$ROOTFS` with what a Debian has, `extra` is a file. `distro` makes
/// a container out of it, without any network.
const MIRROR: &str = r#"
M=$TMP/mirror; mkdir -p $M/pool $M/extra/etc $M/tiny/etc/apt $M/tiny/usr/sbin $M/tiny/usr/lib/systemd $M/tiny/usr/share/zoneinfo/Etc
cp -a $ROOTFS/. $M/tiny; echo e >$M/extra/etc/extra; : >$M/tiny/usr/lib/systemd/systemd; : >$M/tiny/usr/share/zoneinfo/Etc/UTC
printf 'root::1:0:99999:7:::
' >$M/tiny/etc/shadow; chmod 640 $M/tiny/etc/shadow; echo 0123456789abcdef0123456789abcdef >$M/tiny/etc/machine-id
printf '#!/bin/sh
exit 101
' >$M/tiny/usr/sbin/policy-rc.d
for name in tiny extra; do mkdir $M/$name/DEBIAN
printf 'Package: %s
Version: 1
Architecture: all
Maintainer: Nobody <nobody@example.org>
Description: for a test
' $name >$M/$name/DEBIAN/control
dpkg-deb --root-owner-group -Znone -b $M/$name $M/pool/$name.deb >/dev/null
{ cat $M/$name/DEBIAN/control; echo Filename: pool/$name.deb; echo Size: $(stat -c %s $M/pool/$name.deb)
echo SHA256: $(sha256sum $M/pool/$name.deb | cut -d' ' -f1); echo; } >>$M/Packages; done

distro() { ctm create "$@" --mirror "deb [trusted=yes] copy:$M ./" --variant extract --package tiny --init /bin/sleep infinity; }
"#;

/// A distribution is installed once, is fit to boot, and the next container on it is made without its mirror.
#[test]
fn a_distribution() {
    let out = told(
        "distro1",
        &format!(
            "{MIRROR}\
             code distro box1 --distro debian:bookworm --domain example.org; cat $TMP/said | grep -v -e '^created' -e '^looking'\n\
             mv $M/pool $M/away; code distro box2 --distro debian:bookworm --no-userns; code distro box3 --distro debian:bookworm --package extra\n\
             grep -o 'cannot create container box3' $TMP/said; mv $M/away $M/pool\n\
             code distro box3 --distro debian:bookworm --package extra; code distro box4 --fresh --distro debian:bookworm\n\
             [ $(base box1) = $(base box2) ] && [ $(base box1) != $(base box3) ] && [ $(base box1) != $(base box4) ] && echo bases\n\
             ctm images --json | grep what | sort\n\
             ctm start box1 2>/dev/null; at() {{ ctm exec box1 -- \"$@\"; }}\n\
             at cat /etc/hostname /etc/hosts /etc/shadow /etc/machine-id /etc/default/locale /etc/apt/apt.conf.d/90no-recommends\n\
             at stat -c '%n %a %u' /etc/shadow /etc/machine-id /etc/hosts; at ls /usr/sbin; at sh -c 'cd /etc/systemd/system; ls | head -3'\n\
             at ls -l /etc/mtab | sed 's/.*-> //'; at ls -l /etc/systemd/system/systemd-udevd.service | sed 's/.*-> //'; ctm stop box1"
        ),
    );
    assert_eq!(
        out,
        "0\ninstalling debian:bookworm with mmdebstrap\n0\n110\ncannot create container box3\n0\n0\nbases\n\
         \x20   \"what\": \"debian:bookworm amd64 extract +extra +tiny\",\n\x20   \"what\": \"debian:bookworm amd64 extract +tiny\",\n\
         \x20   \"what\": \"debian:bookworm amd64 extract +tiny\",\n\
         box1\n127.0.0.1\tlocalhost\n127.0.1.1\tbox1.example.org box1\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\nroot:!:1:0:99999:7:::\nLANG=C.UTF-8\nAPT::Install-Recommends \"false\";\n\
         /etc/shadow 640 0\n/etc/machine-id 644 0\n/etc/hosts 644 0\ngetty@.service\nkmod-static-nodes.service\nmodprobe@.service\n\
         ../proc/self/mounts\n/dev/null\n"
    );
}

/// What apt has fetched on the host is not fetched again, if it is what the mirror has, and the host's packages stay as they are.
#[test]
fn packages_that_the_host_has() {
    let out = told(
        "precious",
        &format!(
            "{MIRROR}\
             had=/var/cache/apt/archives; mount -t tmpfs had $had; mkdir $had/partial; mv $M/pool/extra.deb $had/extra_1_all.deb; before=$(sha256sum $had/*.deb)\n\
             code distro box1 --distro debian:bookworm --package extra; ctm start box1 2>/dev/null; ctm exec box1 -- cat /etc/extra; ctm exec box1 -- ls $had; ctm stop box1\n\
             [ \"$before\" = \"$(sha256sum $had/*.deb)\" ] && ls $had; ls /var/lib/ctm/.bases/*; echo other >>$had/extra_1_all.deb\n\
             code distro box2 --fresh --distro debian:bookworm --package extra; ls /etc/ctm/containers; ls -A /var/lib/ctm/.bases | wc -l"
        ),
    );
    assert_eq!(
        out,
        "0\ne\nextra_1_all.deb\npartial\nbase.json\nrootfs\n110\nbox1.toml\n1\n"
    );
}

/// Neither program is there: it says what to install.
#[test]
fn no_program_for_a_distribution() {
    let out = told(
        "notool",
        "mkdir $TMP/bin; for program in ctm sh cat dpkg; do ln -s $(command -v $program) $TMP/bin/; done\n\
         mkdir $TMP/empty; for folder in /usr/sbin /usr/local/bin; do mount --bind $TMP/empty $folder; done\n\
         mount --bind /dev/null /usr/bin/mmdebstrap; ls -l /usr/bin/mmdebstrap | cut -c1\n\
         umount /usr/bin/mmdebstrap; mkdir $TMP/usr $TMP/work; mount -t overlay -o lowerdir=/usr/bin,upperdir=$TMP/usr,workdir=$TMP/work x /usr/bin\n\
         rm -f /usr/bin/mmdebstrap /usr/bin/debootstrap; code ctm create box --distro debian:bookworm; cat $TMP/said",
    );
    assert_eq!(
        out,
        "c\n1\nctm: neither mmdebstrap nor debootstrap is installed, and one of them is needed for --distro; `apt install mmdebstrap`\n"
    );
}

/// A recipe's files and commands, in order; what it says of fitness; and its faults with their places.
#[test]
fn recipes() {
    for users in ["--userns", "--no-userns"] {
        let out = told(
            "cooked",
            &format!(
                "tar -C $ROOTFS -cf $TMP/a.tar .; mkdir $TMP/r; echo from >$TMP/r/source; cat >$TMP/r/recipe.toml <<'EOF'\n\
                 [fit]\nhostname = true\n\
                 [[file]]\npath = \"/etc/a/b\"\ncontent = \"put\\n\"\nuid = 7\ngid = 8\nmode = \"0600\"\n\
                 [[file]]\npath = \"/root/c\"\nsource = \"source\"\n\
                 [[run]]\ninside = \"id -u >/etc/ran; cat /etc/hostname /root/c >>/etc/ran; : </dev/null; mknod /etc/node c 10 200 || echo none >>/etc/ran\"\n\
                 [[run]]\nhost = \"echo $CTM_NAME $CTM_FIRST_ID >>$CTM_ROOTFS/etc/ran\"\n\
                 [[run]]\ninside = \"cat /etc/ran >/etc/again\"\nEOF\n\
                 ctm create box {users} --tar $TMP/a.tar --recipe $TMP/r/recipe.toml --init /bin/sleep infinity 2>/dev/null >/dev/null\n\
                 ls -A /run/ctm | grep -v '^\\.' || true; ls /sys/fs/cgroup/ctm/box 2>/dev/null || true; grep /var/lib/ctm /proc/self/mountinfo || true\n\
                 ctm start box 2>/dev/null; ctm exec box -- cat /etc/again; ctm exec box -- stat -c '%u %g %a' /etc/a/b /etc/a; ctm stop box; ctm destroy box --yes\n\
                 printf '[[run]]\\ninside = \"echo sorry; exit 3\"\\n' >$TMP/bad; code ctm create box {users} --tar $TMP/a.tar --recipe $TMP/bad; tail -1 $TMP/said\n\
                 printf '[[run]]\\nhost = \"echo sorry; exit 3\"\\n' >$TMP/bad; code ctm create box {users} --tar $TMP/a.tar --recipe $TMP/bad; tail -1 $TMP/said\n\
                 printf 'packages = [\"a\"]\\n' >$TMP/bad; code ctm create box {users} --tar $TMP/a.tar --recipe $TMP/bad; tail -1 $TMP/said\n\
                 printf '\\n[[run]]\\nouside = \"x\"\\n' >$TMP/bad; code ctm create box --recipe $TMP/bad; sed \"s,$TMP,TMP,\" $TMP/said\n\
                 ls /var/lib/ctm /etc/ctm/containers"
            ),
        );
        let first = if users == "--userns" { " 1073741824" } else { "" };
        let node = if users == "--userns" { "none\n" } else { "" };
        assert_eq!(
            out.replace("box \n", "box\n"),
            format!(
                "0\nbox\nfrom\n{node}box{first}\n7 8 600\n0 0 755\n\
                 8\nctm: cannot create container box: the command `echo sorry; exit 3` failed inside, its shell exited with code 3: sorry\n\
                 79\nctm: cannot create container box: the recipe's command on the host failed: /bin/sh failed (exit status: 3): sorry\n\
                 1\nctm: packages, --arch, --mirror, --variant and --fresh are for a distribution; name it with --distro or in the recipe\n\
                 1\nctm: TMP/bad:3:1: error: unknown key `ouside`\n   |\n 3 | ouside = \"x\"\n   | ^^^^^^\n   = as in `[[run]]` with `inside = \"systemctl enable ssh\"` or `host = \"...\"`\n\
                 /etc/ctm/containers:\n\n/var/lib/ctm:\n"
            ),
            "{users}"
        );
    }
}

/// A tree whose links lead out is written to within itself alone.
#[test]
fn a_hostile_tree_and_a_recipe() {
    let out = told(
        "trap",
        "mkdir $TMP/out; echo old >$TMP/out/motd; rm -r $ROOTFS/etc; ln -s $TMP/out $ROOTFS/etc; ln -s ../../../../../../../$TMP/out $ROOTFS/opt\n\
         printf '[fit]\\nhosts = true\\nmachine_id = true\\n[[file]]\\npath = \"/opt/motd\"\\ncontent = \"new\"\\n' >$TMP/r.toml\n\
         code ctm create box --rootfs $ROOTFS --recipe $TMP/r.toml; grep -o 'in the root file system' $TMP/said; ls $TMP/out; cat $TMP/out/motd; ls /var/lib/ctm",
    );
    assert_eq!(out, "1\nin the root file system\nmotd\nold\n");
}

/// ctm is killed while a recipe's command is being started or runs: nothing of it runs or is mounted once the next create is done.
#[test]
fn killed_while_a_recipe_runs() {
    let out = told(
        "burnt",
        "tar -C $ROOTFS -cf $TMP/a.tar .; printf '[[file]]\\npath = \"/etc/put\"\\ncontent = \"x\"\\n[[run]]\\ninside = \"sleep 1000\"\\n' >$TMP/slow\n\
         printf '[[run]]\\ninside = \"true\"\\n' >$TMP/quick\n\
         for point in put shared-folder devfs bundle create filter start; do\n\
         CTM_FAIL_POINT=after:$point ctm create box --tar $TMP/a.tar --recipe $TMP/slow >/dev/null 2>&1 && echo $point: not reached\n\
         ctm create box --tar $TMP/a.tar --recipe $TMP/quick --init /bin/sleep 1000 >/dev/null 2>$TMP/said || cat $TMP/said\n\
         { ls -A /run/ctm | grep -v '^\\.'; ls -A /run/ctm/.crun; ls /sys/fs/bpf/devbroker; ls -d /sys/fs/cgroup/ctm/box; grep -e /run/ctm/ -e /var/lib/ctm /proc/self/mountinfo; } 2>/dev/null || true\n\
         ls /var/lib/ctm/box/upper/etc/put 2>/dev/null || true; ctm destroy box --yes || echo $point: stays; done; ls /var/lib/ctm",
    );
    assert_eq!(out, "");
}

/// A name that is none makes nothing; a base system that somebody took away is told when it is missed, with what brings it back; and a
/// definition for which there is no room is not written, nor half of it.
#[test]
fn names_bases_and_rooms_that_are_not_there() {
    let out = told(
        "absent",
        "tar -C $ROOTFS -cf $TMP/a.tar .; try() { code \"$@\"; sed 's/[0-9a-f]\\{16\\}/ID/g;/^$/d;/--help/d' $TMP/said; }\n\
         for name in '' ../x .x a/b 'a b' $(printf 'x%.0s' $(seq 65)); do code ctm create \"$name\" --tar $TMP/a.tar; done; try ctm create ../x --tar $TMP/a.tar\n\
         ls /var/lib/ctm /etc/ctm/containers 2>/dev/null || true\n\
         sleeper box1 --tar $TMP/a.tar; sleeper box2 --tar $TMP/a.tar; try ctm rename box1 ../x; ls /etc/ctm/containers\n\
         rm -r /var/lib/ctm/.bases/*; try ctm start box1; try ctm create box3 --clone box1\n\
         ls -A /run/ctm | grep -v '^\\.' || true; grep /var/lib/ctm /proc/self/mountinfo || true; ls /etc/ctm/containers\n\
         ctm create box3 --tar $TMP/a.tar >/dev/null 2>&1; ctm start box1 2>/dev/null; ctm status box1 | head -1; ctm stop box1\n\
         mount -o remount,size=1m /etc/ctm; cat /dev/zero >/etc/ctm/filler 2>/dev/null || true; cp /etc/ctm/containers/box1.toml $TMP/before\n\
         long=$(printf 'x%.0s' $(seq 200)); try ctm set box1 description=$long; try ctm create box4 --tar $TMP/a.tar\n\
         cmp $TMP/before /etc/ctm/containers/box1.toml; ls -A /etc/ctm/containers; ls /var/lib/ctm; rm /etc/ctm/filler; code ctm set box1 description=$long",
    );
    let refused = "error: invalid value '../x' for";
    let no_name = "`../x` is no container name: use 1 to 64 letters, digits, `-`, `_` and `.`, beginning with a letter or digit";
    let missing = "the base system /var/lib/ctm/.bases/ID/rootfs is missing; put it back from a backup, or if it came from an archive \
                   make another container from that one, which makes it again";
    assert_eq!(
        out,
        format!(
            "2\n2\n2\n2\n2\n2\n2\n{refused} '<NAME>': {no_name}\n2\n{refused} '<NEW_NAME>': {no_name}\nbox1.toml\nbox2.toml\n\
             53\nctm: cannot start container box1: {missing}\n\
             53\ncopying /var/lib/ctm/box1/upper\nctm: cannot create container box3: {missing}\nbox1.toml\nbox2.toml\nbox1: running\n\
             46\nctm: the definition of box1 was not changed: cannot write /etc/ctm/containers/box1.toml: No space left on device \
             (os error 28)\n\
             46\nnote: there is no /sbin/init in its root file system; say what starts it with `ctm set box4 \
             'init=[\"PROGRAM\", \"ARGUMENT\"]'`\nctm: cannot create container box4: cannot write \
             /etc/ctm/containers/box4.toml: No space left on device (os error 28)\n\
             box1.toml\nbox2.toml\nbox3.toml\nbox1\nbox2\nbox3\n0\n"
        )
    );
}

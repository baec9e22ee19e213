#!/bin/bash
# Makes the guest's root file system image from Debian packages, without loop
# mounts. Called by the harness with an empty folder to fill:
#
#   build.sh SUITE OUT    ->  OUT/root.img  OUT/vmlinux  OUT/initrd/...
set -euo pipefail
suite=$1 out=$(realpath "$2") here=$(dirname "$(realpath "$0")")
root=$out/root
list() { sed 's/#.*//; s/[[:space:]]//g; /^$/d' "$1"; }
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

# The kernel comes out of its package, not from an installation of it: that
# would bring an initrd generator along and run it.
cat >"$out/fetch-kernel" <<'EOS'
set -e
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
mkdir -p "$1/kernel" && cd "$1/kernel"
apt-get download $(apt-cache depends linux-image-amd64 | sed -n 's/ *Depends: //p')
EOS

step() { echo "$(date +%T) $*"; }
step "packages of $suite"
mmdebstrap --mode=root --variant=minbase --aptopt='Acquire::Retries "5"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
  --dpkgopt='path-exclude=/usr/lib/cni/*' --dpkgopt='path-exclude=/usr/share/i18n/*' \
  --include="$(list "$here/packages" | paste -sd,)" \
  --customize-hook="sh $out/fetch-kernel \"\$1\"" \
  "$suite" "$root" ${DEVBROKER_MIRROR:+"$DEVBROKER_MIRROR"} 2>&1

step "kernel and modules"
dpkg-deb --fsys-tarfile "$root"/kernel/linux-image-*.deb | tar -x -C "$root/kernel"
rm "$root"/kernel/*.deb
[ -d "$root/kernel/usr/lib/modules" ] && mv "$root/kernel/usr/lib/modules" "$root/kernel/modules" || mv "$root/kernel/lib/modules" "$root/kernel/modules"
version=$(ls "$root/kernel/modules")
mkdir -p "$root/kernel/base/lib"
mv "$root/kernel/modules" "$root/kernel/base/lib/modules"
# The chroot's own depmod and modprobe know the format of its kernel.
chroot "$root" depmod -b /kernel/base "$version"
needed() { # paths of a module and all it depends on, in loading order
  { chroot "$root" modprobe -d /kernel/base -S "$version" -D "$1" 2>/dev/null || true; } | sed -n 's/^insmod \/kernel\/base\/lib\/modules\/[^/]*\/\([^ ]*\).*/\1/p'
}
from=$root/kernel/base/lib/modules/$version
to=$root/usr/lib/modules/$version
mkdir -p "$to"
cp "$from"/modules.builtin* "$from"/modules.order "$to"
for module in $(list "$here/modules"); do
  name=${module#!}
  paths=$(needed "$name")
  if [ -z "$paths" ] && [ "$name" != "$module" ] && ! grep -q "/${name//_/[-_]}\.ko" "$from/modules.builtin"; then
    echo "the kernel $version has no module $name" >&2; exit 1
  fi
  echo "$paths"
done | sort -u | sed '/^$/d' >"$out/wanted"
while read -r path; do
  mkdir -p "$to/$(dirname "$path")"
  case $path in
    *.xz) xz -dc "$from/$path" >"$to/${path%.xz}" ;;
    *.zst) zstd -qdc "$from/$path" >"$to/${path%.zst}" ;;
    *) cp "$from/$path" "$to/$path" ;;
  esac
done <"$out/wanted"
mkdir -p "$out/initrd/modules" "$out/initrd/bin"
for name in virtio_pci virtio_blk crc32c_generic crc32c_intel ext4 virtio_console; do needed "$name"; done |
  awk '!seen[$0]++' | while read -r path; do
    path=${path%.xz} path=${path%.zst}
    cp "$to/$path" "$out/initrd/modules/"
    basename "$path"
  done >"$out/initrd/modules/order"
cp "$root/bin/busybox" "$out/initrd/bin/busybox"
# QEMU starts the ELF kernel directly, which spares unpacking it in the guest.
zimage=$(echo "$root"/kernel/boot/vmlinuz-*)
unpack() { # magic, program
  for at in $(LC_ALL=C grep -obUaP "$1" "$zimage" | cut -d: -f1); do
    tail -c +$((at + 1)) "$zimage" | $2 >"$out/vmlinux" 2>/dev/null || true
    [ "$(head -c 4 "$out/vmlinux" | tail -c 3)" = ELF ] && return 0
  done
  return 1
}
unpack '\x28\xb5\x2f\xfd' 'zstd -qdc' || unpack '\xfd7zXZ\x00' 'xz -dc' || { echo "cannot unpack $zimage" >&2; exit 1; }
rm -r "$root/kernel"
chroot "$root" depmod "$version"

step "settings"
cp -r "$here/files/." "$root/"
rm -rf "$root"/etc/systemd/system/*.wants
for unit in getty.target systemd-logind.service systemd-user-sessions.service remote-fs.target \
  ldconfig.service systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-update-done.service \
  systemd-firstboot.service systemd-pcrmachine.service systemd-pcrphase.service systemd-pcrphase-sysinit.service \
  systemd-tpm2-setup.service systemd-tpm2-setup-early.service systemd-machine-id-commit.service systemd-random-seed.service \
  systemd-hibernate-clear.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-tmpfiles-clean.timer \
  systemd-update-utmp.service systemd-update-utmp-runlevel.service dev-hugepages.mount sys-kernel-tracing.mount \
  systemd-ask-password-wall.path systemd-ask-password-console.path systemd-timesyncd.service e2scrub_reap.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# For the tests of profiles alone: without a parser in PATH no engine loads one of its own.
ln -sf /dev/null "$root/etc/systemd/system/apparmor.service"
mkdir -p "$root/usr/libexec/test" && mv "$root/usr/sbin/apparmor_parser" "$root/usr/libexec/test/"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/shared"
ln -s ../agent.service "$root/etc/systemd/system/multi-user.target.wants/agent.service"
ln -sf /usr/lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
echo guest >"$root/etc/hostname"
printf 'root:100000:65536\n' | tee "$root/etc/subuid" >"$root/etc/subgid"
: >"$root/etc/fstab"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/*.log
mkdir -p "$root/var/log/journal" && rmdir "$root/var/log/journal"

step "container root"
# Small, without a package manager or systemd: what a container needs to show
# who may open what. /srv/rootfs is a folder, /srv/rootfs.tar the same as a tar.
c=$root/srv/rootfs
mkdir -p "$c"/{usr/bin,usr/sbin,usr/lib,usr/lib64,etc,proc,sys,dev,run,tmp,root,home,var/lib,var/tmp}
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$c/$folder"; done
chmod 1777 "$c/tmp" "$c/var/tmp"
cp "$root/bin/busybox" "$c/bin/busybox"
for applet in $(chroot "$root" busybox --list); do
  [ "$applet" = busybox ] || [ -e "$c/bin/$applet" ] || ln -s busybox "$c/bin/$applet"
done
for program in getfacl setfacl chacl; do
  rm -f "$c/bin/$program"
  cp "$root/usr/bin/$program" "$c/bin/"
  for library in $(chroot "$root" ldd "/usr/bin/$program" | grep -o '/[^ ]*'); do
    mkdir -p "$c/$(dirname "$library")"
    cp -L "$root/$library" "$c/$library"
  done
done
cat >"$c/etc/passwd" <<'EOS'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
lp:x:7:7:lp:/var/spool/lpd:/bin/false
saned:x:114:120:saned:/var/lib/saned:/bin/false
user:x:1000:1000:user:/home:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
EOS
cat >"$c/etc/group" <<'EOS'
root:x:0:
daemon:x:1:
tty:x:5:
disk:x:6:
lp:x:7:saned
dialout:x:20:user
video:x:44:
plugdev:x:46:user
scanner:x:120:saned
users:x:100:
user:x:1000:
nogroup:x:65534:
EOS
echo container >"$c/etc/hostname"
tar -C "$c" --numeric-owner -cf "$root/srv/rootfs.tar" .

step "image"
truncate -s 4G "$out/root.img"
mke2fs -q -t ext4 -O ^metadata_csum,^64bit -E lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0 -m 0 -d "$root" "$out/root.img"
echo "$version" >"$out/kernel-version"
rm -rf "$root" "$out/fetch-kernel" "$out/wanted"
step "done"

#!/bin/bash
# Makes the disk with whole Debians for containers: minimal, as a user's
# mmdebstrap would leave them; one folder for each init, with a list of packages. Called by the harness with an
# empty folder to fill:
#
#   build.sh SUITE OUT    ->  OUT/debian.img
set -euo pipefail
suite=$1 out=$(realpath "$2") here=$(dirname "$(realpath "$0")")
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
# OpenRC lies in the root with sysvinit, whose scripts its package does not go with: its own init needs none of them.
cat >"$out/fetch-openrc" <<'EOS'
set -e
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
mkdir "$1/openrc" && cd "$1/openrc"
apt-get download openrc $(apt-cache depends openrc | sed -n 's/ *Depends: \(lib\(rc\|einfo\).*\)/\1/p')
EOS
hook=()
for init in systemd sysvinit; do
  [ $init = sysvinit ] && hook=(--customize-hook="sh $out/fetch-openrc \"\$1\"")
  root=$out/root/$init
  mkdir -p "$out/root"
  mmdebstrap --mode=root --variant=minbase --aptopt='Acquire::Retries "5"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --include="$(sed 's/#.*//; s/[[:space:]]//g; /^$/d' "$here/packages.$init" | paste -sd,)" "${hook[@]}" \
    "$suite" "$root" ${DEVBROKER_MIRROR:+"$DEVBROKER_MIRROR"} 2>&1
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
  # Each container makes its own.
  : >"$root/etc/machine-id"
  rm -f "$root/etc/hostname"
  mkdir -p "$root/dev" && find "$root/dev" -mindepth 1 -delete
done
# What fitting it for a container does (`ctm create --recipe`): no gettys, nothing about hardware.
root=$out/root/sysvinit
for package in "$root"/openrc/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root" \
    --exclude='./usr/share/*' --exclude=./etc/init.d/rc --exclude=./etc/init.d/rcS
done
rm -r "$root/openrc" "$out/fetch-openrc"
sed -i '/getty/d' "$root/etc/inittab"
for script in udev kmod hwclock.sh brightness checkroot.sh checkfs.sh checkroot-bootclean.sh mount-configfs urandom; do
  rm -f "$root"/etc/rc?.d/[SK][0-9][0-9]"$script"
done
# The size never changes: the saved state of a machine knows it.
truncate -s 1G "$out/debian.img"
mke2fs -q -t ext4 -O ^metadata_csum,^64bit,^has_journal -E root_owner=0:0 -m 0 -d "$out/root" "$out/debian.img"
du -sm "$out"/root/*
rm -rf "$out/root"

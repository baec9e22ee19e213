#!/bin/bash
# Makes the disk with a whole Debian for containers: minimal, systemd as its
# init, as a user's mmdebstrap would leave it. Called by the harness with an
# empty folder to fill:
#
#   build.sh SUITE OUT    ->  OUT/debian.img
set -euo pipefail
suite=$1 out=$(realpath "$2") here=$(dirname "$(realpath "$0")")
root=$out/root
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
mmdebstrap --mode=root --variant=minbase --aptopt='Acquire::Retries "5"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
  --include="$(sed 's/#.*//; s/[[:space:]]//g; /^$/d' "$here/packages" | paste -sd,)" \
  "$suite" "$root" ${DEVBROKER_MIRROR:+"$DEVBROKER_MIRROR"} 2>&1
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
# Each container makes its own.
: >"$root/etc/machine-id"
rm -f "$root/etc/hostname"
mkdir -p "$root/dev" && find "$root/dev" -mindepth 1 -delete
# The size never changes: the saved state of a machine knows it.
truncate -s 1G "$out/debian.img"
mke2fs -q -t ext4 -O ^metadata_csum,^64bit,^has_journal -E root_owner=0:0 -m 0 -d "$root" "$out/debian.img"
du -sm "$root"
rm -rf "$root"

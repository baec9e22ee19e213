#!/bin/sh
# Installs with apt what building (prereqs.sh build), the demo on the host
# (prereqs.sh host), the benchmark (prereqs.sh bench) or everything
# (prereqs.sh) needs and is not there yet. Says what to do where it cannot.
set -eu
need=""
want() { # program, package
  PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1 || need="$need $2"
}
version=$(rustc --version 2>/dev/null | cut -d' ' -f2) || version=
rust_is_new_enough() {
  [ -n "$version" ] && [ "$(printf '%s\n' 1.85.0 "$version" | sort -V | head -n1)" = 1.85.0 ]
}

updated=
update() { # once; a fresh system has no lists at all
  [ -n "$updated" ] || [ "$(id -u)" != 0 ] || apt-get update -q
  updated=1
}
offered_rust() { apt-cache policy rustc 2>/dev/null | sed -n 's/ *Candidate: //p'; }

if ! rust_is_new_enough || ! command -v cargo >/dev/null; then
  offered=$(offered_rust)
  [ -n "$offered" ] || { update && offered=$(offered_rust); }
  # Beside an older one that apt did not bring, another would not be found.
  if { [ -z "$version" ] || rust_is_new_enough; } && [ -n "$offered" ] && [ "$offered" != "(none)" ] && dpkg --compare-versions "$offered" ge 1.85; then
    need="$need cargo rustc rustfmt rust-clippy"
  else
    echo "Rust 1.85 or newer is needed: there is ${version:-none}, with cargo $(command -v cargo || echo missing), and apt offers ${offered:-none}." >&2
    echo "Use Debian 13 or newer (apt install cargo), or install a toolchain with rustup (rustup toolchain install stable), and try again." >&2
    exit 1
  fi
fi
want cc gcc
want strip binutils
want make make
want pkg-config pkg-config
# cargo fetches crates over HTTPS.
[ -e /etc/ssl/certs/ca-certificates.crt ] || need="$need ca-certificates"
pkg-config --exists libudev 2>/dev/null || need="$need libudev-dev libc6-dev"
if [ "${1:-all}" != build ]; then
  want crun crun
  want python3 python3
  want busybox busybox-static
  want losetup mount
  [ -e /dev/loop-control ] || want modprobe kmod
  want setpriv util-linux
  want tar tar
  want udevadm udev
fi
if [ "${1:-all}" = bench ]; then
  want systemd-nspawn systemd-container
fi
if [ "${1:-all}" = all ]; then
  want qemu-system-x86_64 qemu-system-x86
  want qemu-img qemu-utils
  want mmdebstrap mmdebstrap
  want debootstrap debootstrap
  want mke2fs e2fsprogs
  want zstd zstd
  want xz xz-utils
  want bzip2 bzip2
  want ip iproute2
  want setfacl acl
  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || need="$need debian-archive-keyring"
fi
[ -n "$need" ] || exit 0
if [ "$(id -u)" != 0 ]; then
  echo "missing packages; as root: apt-get install --no-install-recommends$need" >&2
  exit 1
fi
echo "installing:$need"
export DEBIAN_FRONTEND=noninteractive
update
# shellcheck disable=SC2086 # a list of words
apt-get install -q -y --no-install-recommends $need

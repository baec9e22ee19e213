#!/bin/sh
# install.sh SOURCE PROGRAMS DESTDIR PREFIX: puts everything where it belongs.
# PROGRAMS is the folder with the built programs. Nothing is started or enabled.
set -eu
source=$1 programs=$2 destdir=$3 prefix=$4
to=$destdir$prefix

put() { # mode, file, folder [name]
  mkdir -p "$3"
  install -m "$1" "$2" "$3/${4:-$(basename "$2")}"
}
# A text in which /usr/bin and /usr/lib/devbroker become what they are below PREFIX.
put_text() { # file, folder [name]
  mkdir -p "$2"
  sed "s|/usr/bin/devbroker|$prefix/bin/devbroker|g; s|/usr/bin/ctm|$prefix/bin/ctm|g; s|/usr/lib/devbroker/|$prefix/lib/devbroker/|g" \
    "$1" >"$2/${3:-$(basename "$1")}"
  chmod 644 "$2/${3:-$(basename "$1")}"
}

put 755 "$programs/devbroker" "$to/bin"
put 755 "$programs/ctm" "$to/bin"
put 755 "$programs/devbroker-hook" "$to/lib/devbroker" hook
put 755 "$programs/ctm-init" "$to/lib/ctm" init
mkdir -p "$to/lib/systemd/system-generators"
ln -sfn ../../../bin/ctm "$to/lib/systemd/system-generators/ctm-generator"
cd "$source"
for file in rules/*.rules; do put_text "$file" "$to/lib/udev/rules.d"; done
for file in systemd/*.service systemd/*.socket systemd/*.slice systemd/*.target; do
  [ ! -e "$file" ] || put_text "$file" "$to/lib/systemd/system"
done
for file in systemd/*.sysusers; do [ ! -e "$file" ] || put_text "$file" "$to/lib/sysusers.d" "$(basename "$file" .sysusers).conf"; done
for file in systemd/*.tmpfiles; do [ ! -e "$file" ] || put_text "$file" "$to/lib/tmpfiles.d" "$(basename "$file" .tmpfiles).conf"; done
for file in systemd/*.sysctl; do [ ! -e "$file" ] || put_text "$file" "$to/lib/sysctl.d" "$(basename "$file" .sysctl).conf"; done
for section in 5 8; do
  for file in docs/man/*."$section"; do [ ! -e "$file" ] || put_text "$file" "$to/share/man/man$section"; done
done
# Completion scripts come from the programs themselves, so they know what these know.
site=$to/share/zsh/site-functions
# Where Debian's zsh looks for those of packages.
[ "$prefix" != /usr ] || site=$to/share/zsh/vendor-completions
complete() { # program, shell, file
  mkdir -p "$(dirname "$3")"
  "$programs/$1" completions "$2" >"$3"
  chmod 644 "$3"
}
for program in devbroker ctm; do
  complete $program bash "$to/share/bash-completion/completions/$program"
  complete $program zsh "$site/_$program"
  complete $program fish "$to/share/fish/vendor_completions.d/$program.fish"
done
for file in examples/*.toml; do [ ! -e "$file" ] || put_text "$file" "$to/share/doc/devbroker/examples"; done
for file in rules/examples/*; do [ ! -e "$file" ] || put_text "$file" "$to/share/doc/devbroker/examples"; done
# Folders of packages' and the administrator's own files.
mkdir -p "$to/lib/devbroker/conf.d" "$destdir/etc/devbroker/conf.d" "$destdir/etc/ctm/containers" "$destdir/etc/ctm/hooks.d" "$destdir/etc/ctm/profiles"

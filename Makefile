# make check        everything: formatting, lints, tests, root tests, scenarios in the virtual machine (needs root)
# make check-fast   what needs neither root nor the virtual machine
# make scenarios    lists the scenarios;  make scenario NAME=...  runs one and keeps its log
# make soak         the scenarios that take too long for every check
# make bench        how fast a device is in its container, beside the bare system calls and a script; on the host, needs root; N=1000
# make demo         the whole story on an emulated printer, in the virtual machine; HOST=1: on this host, with a loop device
# make build, image, prereqs, install DESTDIR= PREFIX=, clean
#
# IMAGE=bookworm runs the scenarios on Debian 12 instead of 13; JOBS=n so many at a time.

CARGO   ?= cargo
IMAGE   ?= trixie
JOBS    ?= 2
N       ?= 1000
DESTDIR ?=
PREFIX  ?= /usr
export CARGO IMAGE

scenario = $(CARGO) run --quiet -p devbroker-tests --bin scenario --

.PHONY: all prereqs prereqs-build build check check-fast scenarios scenario soak demo bench image install clean

all: build

prereqs:
	@tests/prereqs.sh

prereqs-build:
	@tests/prereqs.sh build

build: prereqs-build
	$(CARGO) build --release -p devbroker -p ctm --bins
	$(CARGO) rustc --release -p ctm-init --bin ctm-init -- -Ctarget-feature=+crt-static -Cstrip=symbols

check: prereqs
	@$(CARGO) run --quiet -p devbroker-tests --bin check -- --jobs $(JOBS)

check-fast: prereqs-build
	@$(CARGO) run --quiet -p devbroker-tests --bin check -- --fast

scenarios: prereqs-build
	@$(scenario) list

scenario: prereqs
	@test -n "$(NAME)" || { echo "which scenario? make scenario NAME=...; make scenarios lists them" >&2; exit 2; }
	@$(scenario) run $(NAME) --jobs $(JOBS)

soak: prereqs
	@$(scenario) soak

ifdef HOST
demo: prereqs-build
	@$(scenario) demo --host-qualifies
	@tests/prereqs.sh host
	@$(scenario) demo --host
else
demo: prereqs
	@$(scenario) demo
endif

bench: prereqs-build
	@tests/prereqs.sh bench
	@$(CARGO) build --quiet --release -p devbroker -p ctm --bin devbroker --bin ctm
	@$(CARGO) run --quiet --release -p devbroker-tests --bin bench -- --replugs $(N)

image: prereqs
	@$(scenario) image

install: build
	@tests/install.sh "$(CURDIR)" target/release "$(DESTDIR)" "$(PREFIX)"

clean:
	$(CARGO) clean

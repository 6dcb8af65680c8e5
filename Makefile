# Two commands on a fresh Debian machine, as root or as a user with sudo:
#   make demo    real hypercalls of real guests in `hvtrace top`
#   make test    all tests; those that need another KVM run in emulated VMs

# To run hvtrace and its VM lab.
PACKAGES := python3-venv python3-bpfcc qemu-system-x86 busybox-static kmod ca-certificates \
            debian-archive-keyring
# To check and test it; pahole, patch and xz-utils build KVM with patches (tests/kvm),
# mmdebstrap and uidmap make roots of other suites (hvtrace/lab/roots.py).
DEV_PACKAGES := binutils bpftool clang-format gcc libc6-dev mmdebstrap pahole patch procps \
                shellcheck tmux uidmap xz-utils

# Debian's own interpreter: BCC's binding is a package of the distribution, and the one
# called "bcc" on PyPI is something else.
PYTHON := /usr/bin/python3
BIN := .venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# As root, and without leaving files of root's in the checkout.
AS_ROOT := $(SUDO) env PYTHONDONTWRITEBYTECODE=1
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get
PYTEST := $(BIN)/python -m pytest
C_FILES := $(wildcard bpf/*.[ch] benchmarks/*.[ch])
SHELL_FILES := .ci/run tests/get-promtool hvtrace/lab/init.sh hvtrace/lab/inside.sh
export PATH := $(CURDIR)/$(BIN):$(PATH):/usr/sbin:/sbin

.PHONY: help setup setup-dev demo test lint test-unit test-bpf test-prometheus fetch test-vm vm bench pictures format clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: .venv/.ready ## install what hvtrace needs; leaves .venv/bin/hvtrace

setup-dev: .venv/.ready-dev ## and what the tests need

demo: setup ## guests and hvtrace top, on this KVM or in a VM (KERNEL=bookworm|trixie|sid)
	@$(BIN)/hvtrace demo $(if $(KERNEL),--kernel $(KERNEL))

# Two at once, each on a CPU of its own; what each says comes when it has ended.
test: setup-dev ## everything below, up to the first failure
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint test-bpf fetch test-unit
	@$(MAKE) --no-print-directory test-vm
	@echo "make test: all good"

lint: setup-dev ## ruff, mypy --strict, clang-format, shellcheck
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	clang-format --dry-run -Werror $(C_FILES)
	shellcheck $(SHELL_FILES)

test-unit: setup-dev ## pure tests: no privilege, no kernel
	$(PYTEST) tests/unit

test-bpf: setup-dev ## the BPF programs, loaded and run on this kernel (root)
	$(AS_ROOT) $(PYTEST) -p no:cacheprovider tests/bpf

test-prometheus: setup-dev ## Debian's Prometheus 2.42 and 3 scrape an exporter in a VM
	$(BIN)/python -m tests.in_lab tests/prometheus

fetch: setup-dev ## the kernels, user spaces and servers of test-vm
	$(BIN)/python -m tests.in_lab --fetch

test-vm: setup-dev ## real hypercalls in VMs: six kernels, three user spaces (KERNEL=..., ROOT=...)
	$(BIN)/python -m tests.in_lab $(if $(KERNEL),--kernel $(KERNEL)) $(if $(ROOT),--root $(ROOT))

vm: setup-dev ## one of them: KERNEL=bookworm|trixie|sid ROOT=host|bookworm|trixie|sid
	$(BIN)/python -m tests.in_lab --kernel $(or $(KERNEL),trixie) --root $(or $(ROOT),host) tests/vm

bench: setup-dev ## what hvtrace costs, beside others; fails where a limit is passed (root)
	$(AS_ROOT) $(BIN)/python -m benchmarks

pictures: setup-dev ## take the pictures of docs/top.md again, and read them against JSON
	$(BIN)/python -m hvtrace.lab --kernel trixie --share $(CURDIR)/docs/images \
	  $(CURDIR)/$(BIN)/python -m tests.host.pictures $(CURDIR)/docs/images
	rm -r docs/images/.lab

format: setup-dev ## let the formatters change the files
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	clang-format -i $(C_FILES)

clean: ## remove what the other targets made, in the checkout
	rm -rf .venv dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Install the packages that are missing; without one missing, apt is not asked at all.
define apt_install
	@missing=; for package in $(1); do \
	  dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed \
	    || missing="$$missing $$package"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	command -v apt-get >/dev/null || { echo "make: needed, and no apt-get here:$$missing"; exit 1; }; \
	[ -z "$(SUDO)" ] || command -v sudo >/dev/null || { \
	  echo "make: as root, please: apt-get install -y$$missing"; exit 1; }; \
	echo "installing$$missing"; \
	ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1 || $(APT) update -qq || exit 1; \
	$(APT) install -y -qq --no-install-recommends $$missing >/dev/null || { \
	  $(APT) update -qq && $(APT) install -y -qq --no-install-recommends $$missing >/dev/null; }
endef

PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check

.venv/.ready: pyproject.toml Makefile
	$(call apt_install,$(PACKAGES))
	@echo "making .venv"
	@$(PYTHON) -m venv --system-site-packages .venv
	@$(PIP_INSTALL) --editable .
	@$(BIN)/python -m compileall -qq hvtrace # pip does it elsewhere; a VM would each time
	@touch $@

.venv/.ready-dev: .venv/.ready
	$(call apt_install,$(DEV_PACKAGES))
	@$(PIP_INSTALL) --editable '.[dev]'
	@command -v promtool >/dev/null || sh tests/get-promtool $(BIN) 2>/dev/null \
	  || { $(APT) update -qq && sh tests/get-promtool $(BIN); }
	@touch $@

# What a person types. Everything that is run or tested comes from one build, in the dev profile
# (optimised, with debug assertions); only `make install` and `make bench` make a release build.

PREFIX  ?= /usr/local
DESTDIR ?=
CARGO   ?= cargo
# Passed to every cargo command: --locked, --offline, …
CARGO_FLAGS ?=

PROGRAMS := weft weft-switch weft-controller
TARGET   := $(or $(CARGO_TARGET_DIR),target)

bindir  := $(PREFIX)/bin
mandir  := $(PREFIX)/share/man/man1
# Where bash-completion, zsh and fish look.
bashdir := $(PREFIX)/share/bash-completion/completions
zshdir  := $(PREFIX)/share/zsh/site-functions
fishdir := $(PREFIX)/share/fish/vendor_completions.d
unitdir := $(PREFIX)/lib/systemd/system
docdir  := $(PREFIX)/share/doc/weft

# Links, namespaces and XDP programs need root: only what is built is run as root, never the build.
ifneq ($(shell id -u),0)
SUDO := sudo
RUN_TESTS_AS_ROOT := --config 'target."cfg(all())".runner = ["sudo", "--preserve-env"]'
endif

.DEFAULT_GOAL := help
.PHONY: help prerequisites run test bench check build release man install uninstall clean

help: ## this list
	@printf 'Weft: a private cloud in Rust\n\n'
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | while IFS="$$(printf '\t')" read -r name text; \
		do printf '  make %-11s %s\n' "$$name" "$$text"; done
	@printf '\nThis machine:\n'
	@deploy/prerequisites.sh check 2>&1 | sed 's/^/  /'

run: ## install what is missing, build, start the demo cloud (Ctrl-C ends it)
	@deploy/prerequisites.sh run
	$(CARGO) build $(CARGO_FLAGS) --workspace --bins
	$(SUDO) $(TARGET)/debug/weft up

test: ## install what is missing, run every test (as root, in network namespaces)
	@deploy/prerequisites.sh test
	$(CARGO) build $(CARGO_FLAGS) --workspace --bins --examples
	$(CARGO) test $(CARGO_FLAGS) --workspace --no-fail-fast $(RUN_TESTS_AS_ROOT)

# Cases and flags may be given: make bench BENCH="exact-rules tenant --pairs 21".
bench: ## install Open vSwitch with DPDK, build for release, measure beside it (as root; some minutes)
	@deploy/prerequisites.sh bench
	$(CARGO) build $(CARGO_FLAGS) --release -p weft -p weft-dataplane --bins --example receive_and_discard
	$(SUDO) $(TARGET)/release/weft bench $(BENCH)

check: ## format, lints, documentation, fast tests: before every commit
	@deploy/prerequisites.sh check
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(CARGO_FLAGS) --no-deps --workspace
	$(CARGO) test $(CARGO_FLAGS) --workspace --lib --bins --test documentation

build: ## build the programs into target/debug
	@deploy/prerequisites.sh build
	$(CARGO) build $(CARGO_FLAGS) --workspace --bins

release: ## build the programs into target/release
	@deploy/prerequisites.sh build
	$(CARGO) build $(CARGO_FLAGS) --workspace --bins --release

man: release ## write man pages and shell completions to target/share
	rm -rf $(TARGET)/share
	mkdir -p $(TARGET)/share/man $(TARGET)/share/completions
	$(TARGET)/release/weft man $(TARGET)/share/man
	for shell in bash zsh fish; do \
		$(TARGET)/release/weft completion $$shell > $(TARGET)/share/completions/weft.$$shell || exit 1; done

# `make man` and then `sudo make install` is for those whose Rust root does not have.
install: ## build for release, install to DESTDIR and PREFIX (/usr/local)
	@if command -v $(CARGO) >/dev/null; then $(MAKE) --no-print-directory man; \
	elif [ -d $(TARGET)/share/man ]; then echo "cargo is not in the PATH: installing what \"make man\" built before"; \
	else echo "cargo is not in the PATH: run \"make man\" as the user who has it, then this again" >&2; exit 1; fi
	install -d $(addprefix $(DESTDIR),$(bindir) $(mandir) $(bashdir) $(zshdir) $(fishdir))
	install -m 755 $(addprefix $(TARGET)/release/,$(PROGRAMS)) $(DESTDIR)$(bindir)
	install -m 644 $(TARGET)/share/man/*.1 $(DESTDIR)$(mandir)
	install -m 644 $(TARGET)/share/completions/weft.bash $(DESTDIR)$(bashdir)/weft
	install -m 644 $(TARGET)/share/completions/weft.zsh $(DESTDIR)$(zshdir)/_weft
	install -m 644 $(TARGET)/share/completions/weft.fish $(DESTDIR)$(fishdir)/weft.fish
	install -d $(DESTDIR)$(unitdir) $(DESTDIR)$(docdir)
	for unit in weft-controller weft-switch; do \
		sed 's:/usr/local/bin/:$(bindir)/:' deploy/systemd/$$unit.service > $(DESTDIR)$(unitdir)/$$unit.service || exit 1; done
	cp -r deploy/examples $(DESTDIR)$(docdir)/

uninstall: ## remove what install put there
	rm -f $(addprefix $(DESTDIR)$(bindir)/,$(PROGRAMS))
	rm -f $(DESTDIR)$(mandir)/weft.1 $(DESTDIR)$(mandir)/weft-*.1
	rm -f $(DESTDIR)$(bashdir)/weft $(DESTDIR)$(zshdir)/_weft $(DESTDIR)$(fishdir)/weft.fish
	rm -f $(DESTDIR)$(unitdir)/weft-controller.service $(DESTDIR)$(unitdir)/weft-switch.service
	rm -rf $(DESTDIR)$(docdir)

clean: ## remove everything that was built
	$(CARGO) clean

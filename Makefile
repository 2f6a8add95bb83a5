# smfs, smvm-runner and smvm-pull. One non-recursive makefile; `make help` lists the targets.
#
# Sources are found by folder: a new file in a folder needs no line here. Dependencies point one
# way (pull -> smfs, runner -> smfs) and are enforced by tests/lib/layering.sh.

VERSION  := 0.1.0
BUILD    ?= build
PREFIX   ?= /usr/local
LIBDIR   ?= $(PREFIX)/lib
DESTDIR  ?=
SAN      ?=
Q        := $(if $(V),,@)
PKGCONF  ?= pkg-config

WARN     := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
            -Wno-unused-parameter
OPT      ?= -O2 -g
CPPFLAGS += -I. -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DSMFS_VERSION='"$(VERSION)"' -DFUSE_USE_VERSION=314
CFLAGS   += -std=gnu11 $(OPT) $(WARN) -fno-strict-aliasing -fvisibility=hidden -fstack-protector-strong \
            -ffunction-sections -fdata-sections -pthread -MMD -MP
LDFLAGS  += -Wl,--gc-sections -Wl,-z,relro,-z,now -pthread

ifneq ($(SAN),)
# A build of its own, so that plain and sanitized objects never mix.
override BUILD := $(BUILD)-san
comma    := ,
CFLAGS   += -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
LDFLAGS  += -fsanitize=$(SAN)
endif

STORE_PKGS := libzstd libxxhash lmdb jansson libcrypto
PULL_PKGS  := libarchive libcurl zlib

# ---- sources ----------------------------------------------------------------------------------
SMFS_LIB   := $(wildcard smfs/base/*.c smfs/store/*.c smfs/mount/*.c)
SMFS_CMD   := $(wildcard smfs/cmd/*.c)
SMVM_LIB   := $(filter-out runner/agent/% runner/cmd/%,$(wildcard runner/*/*.c))
SMVM_CMD   := $(wildcard runner/cmd/*.c)
AGENT      := $(wildcard runner/agent/*.c runner/proto/*.c) \
              smfs/base/err.c smfs/base/log.c smfs/base/bytes.c smfs/base/io.c smfs/base/num.c
# All of the agent but its main, for the unit tests.
AGENT_LIB  := $(filter-out runner/agent/main.c,$(wildcard runner/agent/*.c))
PULL_LIB   := $(wildcard pull/*.c)
PULL_CMD   := $(wildcard pull/cmd/*.c)
UNIT       := $(wildcard tests/unit/test_*.c)
GUESTS     := $(wildcard tests/guest/*.S)
BENCHES    := $(wildcard bench/*.c)
FUZZERS    := $(wildcard tests/fuzz/fuzz_*.c)

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
pic = $(patsubst %.c,$(BUILD)/pic/%.o,$(1))

LIBSMFS := $(BUILD)/libsmfs.a
LIBSMVM := $(BUILD)/libsmvm.a
LIBPULL := $(BUILD)/libpull.a
LIBAGENT := $(BUILD)/libagent.a

.SECONDARY:
.PHONY: all deps check check-long check-san check-tsan quickstart bench bench-store bench-snapshot bench-agent bench-pool plots install uninstall deb clean tidy format fuzz tests help FORCE
.DELETE_ON_ERROR:

all: $(BUILD)/smfs $(BUILD)/smvm-pull $(BUILD)/smvm-runner $(BUILD)/smvm-init \
     $(BUILD)/libsmfs.so $(BUILD)/libsmvm.so $(BUILD)/smfs.pc $(BUILD)/smvm.pc

help:
	@echo 'make deps         install what a build and the tests need (apt, as root)'
	@echo 'make              build the commands and libraries into $(BUILD)/'
	@echo 'make quickstart   install, build, and run the main job for real'
	@echo 'make check        install, build, test; ends with "N passed, N failed, N skipped"'
	@echo 'make check-long   what takes longer: long tests, sanitizers, fuzzing, clang-tidy'
	@echo 'make check-san    the unit, guest and mount tests under AddressSanitizer and UBSan'
	@echo 'make check-tsan   what has threads under ThreadSanitizer: unit tests, worker, pool, fork'
	@echo 'make bench        every figure, tab-separated; QUICK=1 for a few minutes'
	@echo 'make plots        the last bench-snapshot as bench/results/snapshot-*.svg, by gnuplot'
	@echo 'make tidy         clang-tidy over the tree; make format: clang-format'
	@echo 'make install      PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)'
	@echo 'make deb          Debian packages in $(BUILD)/deb; make uninstall: what install has put there'
	@echo 'SAN=address,undefined makes a sanitized build in $(BUILD)-san/'

deps:
	sh tests/lib/deps.sh

# ---- compile ----------------------------------------------------------------------------------
$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC  $@'
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(BUILD)/pic/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC  $@'
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -c -o $@ $<

$(LIBSMFS): $(call obj,$(SMFS_LIB))
$(LIBSMVM): $(call obj,$(SMVM_LIB))
$(LIBPULL): $(call obj,$(PULL_LIB))
$(LIBAGENT): $(call obj,$(AGENT_LIB))
$(LIBSMFS) $(LIBSMVM) $(LIBPULL) $(LIBAGENT):
	@rm -f $@
	@$(AR) rcs $@ $^

$(BUILD)/libsmfs.so: $(call pic,$(SMFS_LIB))
	@echo '  LD  $@'
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-soname,libsmfs.so.0 -o $@ $^ \
	    $$($(PKGCONF) --libs $(STORE_PKGS) fuse3)

# libsmvm stands alone: what it uses of libsmfs is linked into it, and only what smvm.h declares is seen of it.
$(BUILD)/libsmvm.so: runner/api/libsmvm.map $(call pic,$(SMVM_LIB) $(filter smfs/base/% smfs/store/%,$(SMFS_LIB)))
	@echo '  LD  $@'
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-soname,libsmvm.so.0 -Wl,--version-script=$< -o $@ $(filter %.o,$^) \
	    $$($(PKGCONF) --libs $(STORE_PKGS) libarchive)

# ---- commands ---------------------------------------------------------------------------------
$(BUILD)/smfs: $(call obj,$(SMFS_CMD)) $(LIBSMFS)
	@echo '  LD  $@'
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $$($(PKGCONF) --libs $(STORE_PKGS) fuse3)

$(BUILD)/smvm-pull: $(call obj,$(PULL_CMD)) $(LIBPULL) $(LIBSMFS)
	@echo '  LD  $@'
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $$($(PKGCONF) --libs $(PULL_PKGS) $(STORE_PKGS) fuse3)

# Static: a restore is over in a millisecond or two, and the dynamic linker alone would double that.
# Sanitizers need the dynamic one.
ifeq ($(SAN),)
$(BUILD)/smvm-runner: $(call obj,$(SMVM_CMD)) $(LIBSMVM) $(LIBSMFS)
	@echo '  LD  $@'
	$(Q)$(CC) $(LDFLAGS) -static -o $@ $^ -larchive -llzma -lz -ljansson -llmdb -lzstd -lxxhash -lcrypto
else
$(BUILD)/smvm-runner: $(call obj,$(SMVM_CMD)) $(LIBSMVM) $(LIBSMFS)
	@echo '  LD  $@'
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $$($(PKGCONF) --libs libarchive $(STORE_PKGS))
endif

# Runs as process 1 of the guest: static, never sanitized.
AGENT_OBJ := $(patsubst %.c,$(BUILD)/agent/%.o,$(AGENT))
$(BUILD)/agent/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC  $@'
	$(Q)$(CC) $(CPPFLAGS) $(filter-out -fsanitize=% -fno-sanitize-recover=%,$(CFLAGS)) -c -o $@ $<
$(BUILD)/smvm-init: $(AGENT_OBJ)
	@echo '  LD  $@'
	$(Q)$(CC) -static -pthread -Wl,--gc-sections -o $@ $^

# Again each time: they tell of PREFIX, which may be another than the last.
$(BUILD)/%.pc: doc/%.pc.in FORCE
	@mkdir -p $(@D)
	@sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' $< > $@

# ---- tests ------------------------------------------------------------------------------------
UNIT_BIN  := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(UNIT))
GUEST_BIN := $(patsubst tests/guest/%.S,$(BUILD)/guest/%,$(GUESTS))
BENCH_BIN := $(patsubst bench/%.c,$(BUILD)/bench/%,$(BENCHES))
FUZZ_BIN  := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(FUZZERS))
# Only to see that they fit the rest; `make fuzz` builds what runs.
FUZZ_OBJ  := $(patsubst %.c,$(BUILD)/obj/%.o,$(FUZZERS))
$(FUZZ_OBJ): CFLAGS += -Wno-missing-prototypes
ALL_LIBS   = $$($(PKGCONF) --libs $(PULL_PKGS) $(STORE_PKGS) fuse3)

$(BUILD)/unit/%: $(BUILD)/obj/tests/unit/%.o $(LIBPULL) $(LIBAGENT) $(LIBSMVM) $(LIBSMFS)
	@mkdir -p $(@D)
	@echo '  LD  $@'
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(LIBPULL) $(LIBAGENT) $(LIBSMVM) $(LIBSMFS) $(ALL_LIBS) $$($(PKGCONF) --libs cmocka)

# With ids and page hashes that collide: what the store makes of that.
$(BUILD)/unit/test_store_collide: LDFLAGS += -Wl,--wrap=frame_id,--wrap=chunk_ids,--wrap=XXH3_64bits

$(BUILD)/guest/%: tests/guest/%.S tests/guest/guest.ld $(wildcard tests/guest/*.inc)
	@mkdir -p $(@D)
	@echo '  LD  $@'
	$(Q)$(CC) -nostdlib -static -no-pie -Wl,--build-id=none -Wl,--no-warn-rwx-segments -Wl,-T,tests/guest/guest.ld -Itests/guest -o $@ $<

$(BUILD)/bench/%: $(BUILD)/obj/bench/%.o $(LIBSMVM) $(LIBSMFS)
	@mkdir -p $(@D)
	@echo '  LD  $@'
	$(Q)$(CC) $(LDFLAGS) -o $@ $< $(LIBSMVM) $(LIBSMFS) $(ALL_LIBS)

tests: all $(UNIT_BIN) $(GUEST_BIN) $(BENCH_BIN) $(FUZZ_OBJ)

check: deps
	$(MAKE) tests
	BUILD=$(BUILD) sh tests/run.sh check

check-long: deps
	$(MAKE) tests
	BUILD=$(BUILD) sh tests/run.sh long
	$(MAKE) check-san
	$(MAKE) check-tsan
	$(MAKE) fuzz
	$(MAKE) tidy

# Many of the tests again, in builds with sanitizers.
check-san: deps
	$(MAKE) SAN=address,undefined tests
	BUILD=$(BUILD)-san SAN=address,undefined sh tests/run.sh san
check-tsan: deps
	$(MAKE) BUILD=$(BUILD)-thread SAN=thread tests
	BUILD=$(BUILD)-thread-san SAN=thread sh tests/run.sh tsan

quickstart: deps
	$(MAKE) all
	BUILD=$(BUILD) sh tests/vm/quickstart.sh

bench: bench-store bench-snapshot bench-agent bench-pool
bench-store bench-snapshot bench-agent bench-pool: tests
	BUILD=$(BUILD) sh bench/$@.sh
plots:
	sh bench/plot-snapshot.sh

# libFuzzer: FUZZ_SECONDS each, findings kept in $(BUILD)/fuzz.
FUZZ_SECONDS ?= 60
FUZZ_FLAGS := -std=gnu11 -O1 -g -pthread -fno-sanitize-recover=all
$(BUILD)/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC  $@'
	$(Q)clang $(CPPFLAGS) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,address,undefined -MMD -MP -c -o $@ $<
# An archive of its own, so that each fuzzer takes what it needs.
$(BUILD)/fuzz/libs.a: $(patsubst %.c,$(BUILD)/fuzz/obj/%.o,$(SMFS_LIB) $(SMVM_LIB) $(AGENT_LIB) $(PULL_LIB))
	@rm -f $@
	@$(AR) rcs $@ $^
$(BUILD)/fuzz/%: $(BUILD)/fuzz/obj/tests/fuzz/%.o $(BUILD)/fuzz/libs.a
	@echo '  LD  $@'
	$(Q)clang -fsanitize=fuzzer,address,undefined -pthread -o $@ $^ $(ALL_LIBS)
fuzz: $(FUZZ_BIN)
	BUILD=$(BUILD) FUZZ_SECONDS=$(FUZZ_SECONDS) sh tests/fuzz/run.sh

tidy:
	@printf '%s\n' $(sort $(SMFS_LIB) $(SMFS_CMD) $(SMVM_LIB) $(SMVM_CMD) $(AGENT) $(PULL_LIB) $(PULL_CMD)) | \
	    xargs -P $$(nproc) -I{} clang-tidy --quiet {} -- $(CPPFLAGS) -std=gnu11 $$($(PKGCONF) --cflags fuse3)

format:
	git ls-files '*.c' '*.h' | xargs clang-format -i

# ---- install ----------------------------------------------------------------------------------
BINDIR     := $(PREFIX)/bin
SHAREDIR   := $(PREFIX)/share
SYSCONFDIR ?= $(if $(filter /usr,$(PREFIX)),/etc,$(PREFIX)/etc)
UNITDIR    ?= $(PREFIX)/lib/systemd/system
COMMANDS   := smfs smvm-runner smvm-pull
HEADERS    := smfs/base/err.h smfs/store/store.h
UNITS      := $(wildcard packaging/systemd/*.service.in)

# Made from what --help says, so they cannot say anything else.
$(BUILD)/complete/%.bash: packaging/completions.sh $(BUILD)/%
	@mkdir -p $(@D)
	@sh $< bash $(BUILD)/$* > $@
$(BUILD)/complete/_%: packaging/completions.sh $(BUILD)/%
	@mkdir -p $(@D)
	@sh $< zsh $(BUILD)/$* > $@
$(BUILD)/%.service: packaging/systemd/%.service.in FORCE
	@mkdir -p $(@D)
	@sed 's|@BINDIR@|$(BINDIR)|' $< > $@
BY_SCRIPT  := $(foreach c,$(COMMANDS),$(BUILD)/complete/$(c).bash $(BUILD)/complete/_$(c)) \
              $(patsubst packaging/systemd/%.in,$(BUILD)/%,$(UNITS))

install: all $(BY_SCRIPT)
	for c in $(COMMANDS); do \
	    install -D -m 755 $(BUILD)/$$c $(DESTDIR)$(BINDIR)/$$c && \
	    install -D -m 644 doc/$$c.1 $(DESTDIR)$(SHAREDIR)/man/man1/$$c.1 && \
	    install -D -m 644 $(BUILD)/complete/$$c.bash $(DESTDIR)$(SHAREDIR)/bash-completion/completions/$$c && \
	    install -D -m 644 $(BUILD)/complete/_$$c $(DESTDIR)$(SHAREDIR)/zsh/site-functions/_$$c || exit 1; done
	install -D -m 755 $(BUILD)/smvm-init $(DESTDIR)$(PREFIX)/lib/smvm/smvm-init
	for l in smfs smvm; do \
	    install -D -m 644 $(BUILD)/lib$$l.a $(DESTDIR)$(LIBDIR)/lib$$l.a && \
	    install -D -m 644 $(BUILD)/lib$$l.so $(DESTDIR)$(LIBDIR)/lib$$l.so.0 && \
	    ln -sf lib$$l.so.0 $(DESTDIR)$(LIBDIR)/lib$$l.so && \
	    install -D -m 644 $(BUILD)/$$l.pc $(DESTDIR)$(LIBDIR)/pkgconfig/$$l.pc || exit 1; done
	for h in $(HEADERS); do \
	    install -D -m 644 $$h $(DESTDIR)$(PREFIX)/include/$$h || exit 1; done
	install -D -m 644 runner/api/smvm.h $(DESTDIR)$(PREFIX)/include/smvm.h
	for u in $(notdir $(UNITS:.in=)); do \
	    install -D -m 644 $(BUILD)/$$u $(DESTDIR)$(UNITDIR)/$$u || exit 1; done
	install -D -m 644 packaging/systemd/smfs.default $(DESTDIR)$(SYSCONFDIR)/default/smfs
	install -D -m 644 -t $(DESTDIR)$(SHAREDIR)/doc/smvm-runner/examples packaging/systemd/*.conf

# What an install with the same variables would put there, and folders that only held that.
uninstall:
	t=$$(mktemp -d) && trap 'rm -rf "$$t"' EXIT && $(MAKE) -s install DESTDIR="$$t" && \
	(cd "$$t" && find . ! -type d) | (cd "$(DESTDIR)/" && xargs rm -f) && \
	(cd "$$t" && find . -mindepth 1 -depth -type d) | \
	    (cd "$(DESTDIR)/" && xargs rmdir --ignore-fail-on-non-empty)

# Debian packages in $(BUILD)/deb, for the release this runs on.
deb:
	$(MAKE) all PREFIX=/usr
	VERSION=$(VERSION) BUILD=$(BUILD) MAKE="$(MAKE)" sh packaging/deb/build.sh

clean:
	rm -rf $(BUILD) $(BUILD)-san $(BUILD)-thread-san

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

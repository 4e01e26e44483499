# Sluice. `make help` lists the targets. V=1 shows whole commands, BUILD=dir moves the output,
# MODE=asan|tsan builds with sanitizers into a folder of their own below it.
BUILD ?= build
MODE ?= release
out := $(BUILD)$(if $(filter-out release,$(MODE)),/$(MODE))
jobs ?= $(shell nproc)

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:

# --- Compilers and flags -----------------------------------------------------------------------------------------

warnings := -Wall -Wextra -Wconversion -Wshadow -Werror
mode_release := -O2 -g -fstack-protector-strong
mode_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
mode_tsan := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
mode_coverage := -O0 -g --coverage
mode_fuzz := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -Wno-error
mode := $(or $(mode_$(MODE)),$(error MODE is release, asan, tsan, coverage or fuzz; got "$(MODE)"))
ifeq ($(MODE),fuzz)
CC := clang
CXX := clang++
warnings := $(filter-out -Werror,$(warnings)) # clang warns of other things; gcc's word is what holds the build
endif

# An empty definition agrees with a plain `#define _GNU_SOURCE` in a source file.
common := -I. -I$(out)/gen -MMD -MP -pthread $(mode)
cflags = -std=gnu11 -D_GNU_SOURCE= $(common) $(warnings) $(CFLAGS)
cxxflags = -std=gnu++17 $(common) $(warnings) $(CXXFLAGS)
libs := -lrocksdb -lmicrohttpd -lcurl -lgrpc -lgpr -lprotobuf-c -ljansson -lre2 -lisal -lssl -lcrypto -linih -ldl -lpthread -lm

Q := $(if $(V),,@)
say = $(if $(V),,@printf '%-7s %s\n' $(1) $(2);)

# --- What is built -----------------------------------------------------------------------------------------------

# From high to low, as the linker needs them; DESIGN.md's order of folders, checked by scripts/borders.
folders := gateway core/node client core/lambda core/cluster core/shard core/versions core/rdma core/consensus core/base api
protos := $(wildcard api/proto/*.proto)
lambdas := $(patsubst lambdas/%/,%,$(sort $(dir $(wildcard lambdas/*/*.c))))
units := $(patsubst tests/unit/%/,%,$(sort $(dir $(wildcard tests/unit/*/test_*.c))))
fuzzers := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
single := $(basename $(wildcard tests/bench/*.c tests/cluster/*.c)) # one file, one program

sources = $(sort $(wildcard $(addsuffix /*.c,$(1)) $(addsuffix /*.cc,$(1))))
objects = $(patsubst %,$(out)/%.o,$(call sources,$(1)))
library = $(out)/lib$(notdir $(1)).a

proto_c := $(patsubst %.proto,$(out)/gen/%.pb-c.c,$(protos)) $(out)/gen/api/proto/descriptors.pb-c.c
libraries := $(foreach d,$(folders),$(call library,$(d)))
programs := $(if $(call sources,cli),$(out)/sluice) $(if $(call sources,core/node/main),$(out)/sluiced) \
            $(if $(call sources,gateway/main),$(out)/sluice-gateway) $(out)/fabric-perf
modules := $(patsubst %,$(out)/lambdas/%.so,$(lambdas))
unit_programs := $(patsubst %,$(out)/tests/unit-%,$(units))
fixtures := $(patsubst %.c,$(out)/%.so,$(wildcard tests/unit/*/fixtures/*.c)) # shared objects that tests load
sim_program := $(if $(call sources,tests/sim),$(out)/tests/sim/sim)
sim_paxos := $(out)/tests/sim/paxos/sim_paxos
# Judges histories: linked by the simulator, and a program of its own.
check_library := $(out)/tests/libcheck.a
# A node of a release that is one ahead (api/release.c), for tests that roll it out.
next_release := $(out)/next/sluiced
chaos_programs := $(out)/tests/chaos/load $(out)/tests/chaos/weather
test_programs := $(unit_programs) $(sim_program) $(sim_paxos) $(out)/tests/linear $(chaos_programs) $(next_release) $(addprefix $(out)/,$(single))

.PHONY: all run deps test chaos kills unit units tests sim sim-paxos sim-campaign coverage mutants model bench demo fuzz fuzzers rdma-vm libraries format clean help
all: libraries $(programs) $(modules) ## build the programs and the example lambdas (the default)
libraries: $(libraries)
tests: $(test_programs) ## build every test program
units: $(unit_programs)

# --- Rules -------------------------------------------------------------------------------------------------------

# Changed flags rebuild everything, and a removed source leaves its archive.
stamp = $(shell mkdir -p $(dir $(1)); printf '%s\n' '$(2)' | cmp -s - $(1) || printf '%s\n' '$(2)' >$(1))
$(call stamp,$(out)/flags,$(CC) $(CXX) $(cflags) $(cxxflags) $(LDFLAGS) $(libs))
$(call stamp,$(out)/sources,$(call sources,$(folders) cli core/node/main core/rdma/main gateway/main $(sort $(dir $(wildcard tests/*/*.c tests/*/main/*.c tests/sim/paxos/*.c tests/unit/*/*.c)))))

$(out)/%.c.o: %.c $(out)/flags | $(proto_c)
	$(call say,CC,$<)mkdir -p $(@D); $(CC) $(cflags) -c -o $@ $<
$(out)/next/%.c.o: CFLAGS += -DSLUICE_RELEASE_NEXT
$(out)/next/%.c.o: %.c $(out)/flags
	$(call say,NEXT,$<)mkdir -p $(@D); $(CC) $(cflags) -c -o $@ $<
$(out)/%.cc.o: %.cc $(out)/flags | $(proto_c)
	$(call say,CXX,$<)mkdir -p $(@D); $(CXX) $(cxxflags) -c -o $@ $<
$(out)/gen/%.pb-c.c: %.proto
	$(call say,PROTO,$<)mkdir -p $(out)/gen; protoc-c --c_out=$(out)/gen $<
# What gRPC's reflection answers from (api/descriptors.h): all descriptors as one C array.
$(out)/gen/api/proto/descriptors.pb-c.c: $(protos)
	$(call say,PROTO,$@)mkdir -p $(@D); protoc-c --descriptor_set_out=$@.bin $^ && \
	{ printf '#include "api/descriptors.h"\nconst unsigned char api_descriptors[] = {\n'; od -An -v -tx1 $@.bin | sed 's/ \(..\)/0x\1,/g'; \
	printf '};\nconst size_t api_descriptors_size = sizeof(api_descriptors);\n'; } >$@
$(out)/gen/%.pb-c.c.o: $(out)/gen/%.pb-c.c $(out)/flags
	$(call say,CC,$<)$(CC) -std=gnu11 $(common) $(CFLAGS) -c -o $@ $<

# The gateway serves the description that it was built with.
$(out)/gateway/status.c.o: openapi.yaml

$(foreach d,$(folders),$(eval $(call library,$(d)): $(call objects,$(d))))
$(call library,api): $(proto_c:=.o)
$(libraries) $(check_library): $(out)/sources
	$(call say,AR,$@)rm -f $@; $(AR) rcs $@ $(filter %.o,$^)

# One C++ linker for all: RocksDB, RE2 and gRPC are C++ inside. What a program does not use is not linked.
link = $(CXX) $(mode) $(LDFLAGS) -pthread -o $@ $(filter %.o,$^) $(filter %.a,$^) -Wl,--as-needed $(libs) $(LDLIBS)
$(out)/sluice: $(call objects,cli)
$(out)/sluiced: $(call objects,core/node/main)
$(out)/sluice-gateway: $(call objects,gateway/main)
$(out)/fabric-perf: $(call objects,core/rdma/main)
$(next_release): $(out)/next/api/release.c.o $(call objects,core/node/main)
$(check_library): $(call objects,tests/check)
$(out)/tests/linear: $(call objects,tests/check/main) $(check_library)
$(out)/tests/sim/sim: $(call objects,tests/sim) $(check_library)
$(sim_paxos): $(call objects,tests/sim/paxos)
# libsluice runs in simulated time, over a fabric of the simulator's own.
$(out)/tests/sim/sim: LDFLAGS += -Wl,--wrap=clock_monotonic_ns,--wrap=clock_realtime_ns,--wrap=random_os
# Reads of the store can fail there.
$(out)/tests/sim/sim: LDFLAGS += -Wl,--wrap=versions_entry,--wrap=versions_latest,--wrap=versions_by_version,--wrap=versions_by_time,--wrap=versions_repair
$(out)/tests/sim/sim: LDFLAGS += -Wl,--wrap=versions_destroy,--wrap=versions_erase,--wrap=store_erase,--wrap=store_next_group,--wrap=store_flush
$(out)/tests/unit-check: $(call objects,tests/unit/check) $(check_library)
$(out)/tests/chaos/load: $(out)/tests/chaos/load.c.o $(out)/tests/chaos/http.c.o
$(out)/tests/chaos/weather: $(out)/tests/chaos/weather.c.o
$(out)/tests/chaos/weather: LDLIBS += -lnetfilter_queue
$(foreach p,$(single),$(eval $(out)/$(p): $(out)/$(p).c.o))
# A folder's unit tests see its archive and those that the linker finds below it.
from = $(if $(filter %/lib$(1).a,$(firstword $(2))),$(2),$(if $(2),$(call from,$(1),$(wordlist 2,99,$(2)))))
$(foreach u,$(units),$(eval $(out)/tests/unit-$(u): $(call objects,tests/unit/$(u)) $(or $(call from,$(u),$(libraries)),$(libraries))))
# libsluice is tested in simulated time.
$(out)/tests/unit-client: LDFLAGS += -Wl,--wrap=clock_monotonic_ns
# The CLI is a program and no archive: its tests see what its commands share.
$(out)/tests/unit-cli: $(patsubst %,$(out)/cli/%.c.o,common show sse)
# So is fabric-perf.
$(out)/tests/unit-rdma: $(patsubst %,$(out)/core/rdma/main/%.c.o,histogram judge)
$(unit_programs): LDLIBS += -lcriterion
$(foreach u,$(units),$(eval $(out)/tests/unit-$(u): | $(filter $(out)/tests/unit/$(u)/%,$(fixtures))))
# The example lambdas are loaded like any other; their tests make images.
$(out)/tests/unit-lambdas: LDLIBS += -ljpeg
$(out)/tests/unit-lambdas: | $(modules)
$(fixtures): $(out)/%.so: %.c $(out)/flags api/sluice_lambda.h
	$(call say,FIXTURE,$<)mkdir -p $(@D); $(CC) $(filter-out -MMD -MP,$(cflags)) -fPIC -fvisibility=hidden -shared -o $@ $<
$(unit_programs): $(if $(filter-out release,$(MODE)),$(out)/tests/unit/runner.c.o)
$(programs) $(filter-out $(unit_programs),$(test_programs)): $(libraries)
$(programs) $(test_programs): $(out)/sources
	$(call say,LINK,$@)$(link)

# A lambda is a shared object of the public ABI; lambdas/NAME/flags.mk may set LDLIBS.
define lambda
LDLIBS :=
-include lambdas/$(1)/flags.mk
$(out)/lambdas/$(1).so: LDLIBS := $$(LDLIBS)
LDLIBS :=
$(out)/lambdas/$(1).so: $(call objects,lambdas/$(1))
endef
$(foreach l,$(lambdas),$(eval $(call lambda,$(l))))
$(out)/lambdas/%.o: CFLAGS += -fPIC -fvisibility=hidden
$(modules):
	$(call say,LAMBDA,$@)$(CC) $(mode) -shared -o $@ $^ -Wl,--as-needed $(LDLIBS)

# --- Targets -----------------------------------------------------------------------------------------------------

deps: ## install the Debian packages that building and testing need
	@scripts/deps build test

run: ## build, and start a node and a gateway on this machine (ARGS= are handed on)
	@scripts/deps build
	@$(MAKE) --no-print-directory -j$(jobs) all
	@exec $(out)/sluice up $(ARGS)

test: ## run every check there is (ONLY="unit sim" picks some)
	@scripts/deps build test
	@exec scripts/test $(ONLY)

unit: $(patsubst %,$(out)/tests/unit-%,$(or $(UNIT),$(units))) ## run the unit tests (UNIT=base picks a folder; MODE=asan, tsan)
	@bad=; for u in $(or $(UNIT),$(units)); do \
	    printf 'UNIT    %s (%s)\n' $$u $(MODE); $(out)/tests/unit-$$u || bad="$$bad $$u"; done; \
	[ -z "$$bad" ] || { echo "unit tests failed:$$bad"; exit 1; }

sim_options = $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) $(ARGS)
sim: $(sim_program) ## run the simulator (SEED=, SEEDS= how many, STEPS=; ARGS=--verbose)
	@exec $(sim_program) $(if $(SEEDS),--seeds $(SEEDS)) $(sim_options)

sim-paxos: $(sim_paxos) ## run the simulator of consensus alone, much faster than the whole (SEED=, SEEDS=, STEPS=)
	@exec $(sim_paxos) $(if $(SEEDS),--seeds $(SEEDS)) $(sim_options)

sim-campaign: $(sim_program) ## run the simulator on ever new seeds for MINUTES=10 (SEED= to begin elsewhere than now)
	@exec nice $(sim_program) --minutes $(or $(MINUTES),10) $(if $(SEED),,--seed $$(date +%s)000) $(sim_options)

coverage: ## what both simulators reach of core/consensus, core/shard and core/versions (SEEDS=400)
	@$(MAKE) --no-print-directory MODE=coverage $(addprefix $(BUILD)/coverage/tests/,sim/sim sim/paxos/sim_paxos unit-consensus)
	@exec nice tests/sim/coverage $(BUILD)/coverage $(or $(SEEDS),400) $(or $(STEPS),20000) $(ARGS)

mutants: ## plant deliberate bugs one by one, and show that the simulators find them (ARGS="--quick NAME...")
	@exec tests/sim/mutants/run $(BUILD) $(ARGS)

model: ## check the models of leader change, leases and members with spin (ARGS=--quick)
	@scripts/deps build test
	@exec core/consensus/model/run $(BUILD) $(ARGS)

bench: ## measure (ARGS= are handed on)
	@scripts/deps build bench
	@$(MAKE) --no-print-directory -j$(jobs) all tests
	@exec tests/bench/run $(ARGS)

kills: ## kill leaders under load, KILLS=20 on each fabric (SILENT=1 stops them instead), and account for every write
	@scripts/deps build test
	@$(MAKE) --no-print-directory -j$(jobs) all
	@SLUICE_BUILD=$(out) exec tests/cluster/kills.py --kills $(or $(KILLS),20) $(if $(SILENT),--silent)

chaos: ## real processes in network namespaces, faults from SEED= for MINUTES=1 (NODES=3 or 5; both by default; needs root)
	@scripts/deps build test
	@$(MAKE) --no-print-directory -j$(jobs) all tests
	@SLUICE_BUILD=$(out) exec tests/chaos/run --minutes $(or $(MINUTES),1) $(if $(NODES),--nodes $(NODES)) $(if $(SEED),--seed $(SEED)) $(ARGS)

rdma-vm: ## the fabric on real verbs: a virtual machine with RDMA devices (NAME= one part)
	@scripts/deps build test
	@$(MAKE) --no-print-directory -j$(jobs) all units
	@exec tests/rdma-vm/run $(out) $(NAME)

demo: ## the farm: cameras, cows and lambdas on this machine
	@scripts/deps build demo
	@$(MAKE) --no-print-directory -j$(jobs) all
	@exec scripts/demo $(ARGS)

fuzz: ## run each fuzzer for SECONDS=10 seconds (FUZZ=name picks one)
	@scripts/deps build test
	@$(MAKE) --no-print-directory -j$(jobs) MODE=fuzz fuzzers
	@exec tests/fuzz/run $(BUILD)/fuzz $(or $(SECONDS),10) $(or $(FUZZ),$(fuzzers))

fuzzers: $(addprefix $(out)/,$(fuzzers))
# The gateway is fuzzed in front of the store in memory of its unit tests.
$(out)/fuzz_http: $(out)/tests/unit/gateway/fake_sluice.c.o $(out)/tests/unit/gateway/fake_store.c.o
$(out)/fuzz_%: $(out)/tests/fuzz/fuzz_%.c.o $(libraries)
	$(call say,LINK,$@)$(subst -no-link,,$(link))

format: ## bring every C file into shape
	@git ls-files '*.c' '*.h' '*.cc' | xargs clang-format -i

clean: ## remove what was built
	rm -rf $(BUILD)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

-include $(shell find $(out) -name '*.d' 2>/dev/null)

# What a contributor runs. CONTRIBUTING.md says when; .ci/run runs all of it.
#
#   make check   before each commit: formatting, vet, builds, limits, quick tests
#   make test    all tests of the root module, as go test ./... has them
#   make race    the same tests under the race detector
#   make bench   the benchmarks, the figures of docs/performance.md
#   make all     what CI runs, with the long tests; .ci/install installs their needs

.DEFAULT_GOAL = check
MAKEFLAGS += --no-print-directory

PLATFORMS = linux/amd64 linux/arm64 darwin/arm64 windows/amd64
# A tool is not a dependency of the root module: tools/ is a module of its own.
TOOL = go tool -modfile=tools/go.mod
# Long is for soaks, large tables, and floods (internal/testkit).
LONG = SPAWNWIRE_LONG=1 SPAWNWIRE_PEERS=required
# A time limit finds a hang. It is not a measure of speed.
TIMEOUT = 60m
# The packages with quick tests.
QUICK = . ./internal/... ./spawnspec/... ./transport/... ./handshake/... ./examples/hello/...

.PHONY: check static test race bench all
.PHONY: format vet staticcheck lint limits prose quick long portable arm64 arm64-quick peers observe kubernetes libraries treehash smoke commands

check: static quick

static: format vet staticcheck limits prose

test:
	go test -timeout $(TIMEOUT) ./...

race:
	SPAWNWIRE_PEERS=required go test -count=1 -race -timeout $(TIMEOUT) ./...

bench:
	go test -run '^$$' -bench . ./bench
	CGO_ENABLED=0 go run ./bench/spawnbench -n 200 -method exec,forkserver -spares 4

all:
	@set -e; for target in static lint peers observe kubernetes long race portable arm64-quick treehash smoke commands; do \
		printf '\n== make %s\n' $$target; \
		$(MAKE) $$target; \
	done

format:
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:" $$unformatted; exit 1; fi

vet:
	go mod verify
	@set -e; for platform in $(PLATFORMS); do \
		export GOOS=$${platform%/*} GOARCH=$${platform#*/} CGO_ENABLED=0; \
		echo "go build and go vet for $$platform"; \
		go build ./...; \
		go vet ./...; \
	done
	go vet ./...

staticcheck:
	$(TOOL) staticcheck ./...

# golangci-lint is large: the first run compiles it for minutes.
lint:
	$(TOOL) golangci-lint run --allow-parallel-runners

# The floors, the limits on names and lengths, and the names and links in docs.
limits:
	go test ./internal/archtest

prose:
	.ci/prose.py -check

quick:
	go test $(QUICK)
	go test -run 'Test(Spawn|Boot|Stop|Death|Group)_' ./forkspawn

long:
	$(LONG) go test -count=1 -timeout $(TIMEOUT) ./...

# Children started by syscall.ForkExec, as on macOS and on old kernels.
portable:
	go test -tags portable -timeout $(TIMEOUT) ./forkspawn/...

# Forks without exec on an emulated linux/arm64. It is not in all, because it takes hours.
FORK = forkspawn/internal/reforktest
arm64:
	ARM64_SECONDS=$${ARM64_SECONDS:-18000} .ci/arm64 './$(FORK)/helper all' './$(FORK)/forksoak -n 2000' \
		./forkspawn/internal/template/refork/selftest ./forkspawn/internal/template/refork \
		'./forkspawn -test.parallel=1 -test.run=^Test(Forkserver|Forked|Template)'

# A part of it in three minutes, if the emulator and its kernel can be had.
arm64-quick:
	.ci/arm64 -optional './$(FORK)/helper self-test' './$(FORK)/helper request' './$(FORK)/helper descriptors' \
		'./$(FORK)/forksoak -n 15' ./forkspawn/internal/template/refork/selftest \
		'./forkspawn -test.run=^TestForked_AfterForkFails$$'

# The other libraries that bench/peers compares with are dependencies of that module only.
peers:
	go -C bench/peers mod verify
	go -C bench/peers vet ./...
	staticcheck=$$($(TOOL) -n staticcheck) && cd bench/peers && $$staticcheck ./...
	go -C bench/peers test -count=1 ./...

# Metrics and traces need libraries, which are dependencies of their modules only.
# Children can be forked only without cgo.
observe:
	@set -e; for module in observe/prometheus observe/otel; do \
		echo "tests of $$module"; \
		go -C $$module mod verify; \
		go -C $$module vet ./...; \
		CGO_ENABLED=0 go -C $$module test -count=1 ./...; \
	done

# Children in pods need client-go, a dependency of that module only.
kubernetes:
	go -C launch/kubernetes mod verify
	go -C launch/kubernetes vet ./...
	staticcheck=$$($(TOOL) -n staticcheck) && cd launch/kubernetes && $$staticcheck ./...
	go -C launch/kubernetes test -count=1 ./...

# How libraries behave in forked children. They are dependencies of that module only. It is
# not in all, because their goroutines and versions decide what happens.
LIBRARIES = forkspawn/internal/reforktest/libraries
libraries:
	go -C $(LIBRARIES) mod verify
	CGO_ENABLED=0 go -C $(LIBRARIES) vet ./...
	staticcheck=$$($(TOOL) -n staticcheck) && cd $(LIBRARIES) && CGO_ENABLED=0 $$staticcheck ./...
	CGO_ENABLED=0 go -C $(LIBRARIES) test -count=1 ./...

treehash:
	.ci/treehash

# The commands of README.md and docs that take less than a minute each.
commands:
	.ci/commands

# A few rounds of each program and benchmark, to see that they work.
smoke:
	CGO_ENABLED=0 go run ./bench/spawnbench -n 20 -method exec,forkserver -spares 2 -heap 1M -init 0,5ms -json >/dev/null
	CGO_ENABLED=0 go run ./bench/spawnbench -n 20 -method exec,forkserver -spares 2 -heap 1M -init 0,5ms
	go run ./bench/startcost -n 5 -inits 2
	CGO_ENABLED=0 go run ./forkspawn/internal/reforktest/forksoak -n 300
	go test -run '^$$' -bench . -benchtime 20x ./bench

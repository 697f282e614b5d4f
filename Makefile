# Priormesh's commands. `make help` lists them; each does its own set-up.

GO          ?= go
STATICCHECK  = honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null || echo unversioned)
LDFLAGS      = -X main.version=$(VERSION)

# Tests run two packages at a time: more only swaps turns on a small machine.
JOBS        ?= 2
# Everything but interop, which runs alone and last because it starts whole regions.
UNIT         = $(shell $(GO) list ./... | grep -v '/interop$$')

# Bounds of `make soak`.
FUZZTIME    ?= 60s
ROUNDS      ?= 5
CRASHES     ?= 5000
# Bounds of `make bench`.
BENCH       ?= .
BENCHTIME   ?= 1s

.PHONY: help demo build test format vet lint unit interop interop-setup bench soak clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## a region of three trusts on this machine; ARGS="--once --json" and others are passed on
	@bin/priormesh demo $(ARGS)

build: ## bin/priormesh, one static program
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/priormesh ./cmd/priormesh

test: format vet lint interop-setup unit interop ## everything that must pass, after installing what is missing

format: ## is every Go file as gofmt writes it?
	@bad=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	if [ -n "$$bad" ]; then echo "gofmt would change:"; echo "$$bad"; exit 1; fi

vet: ## go vet
	$(GO) vet ./...

lint: ## staticcheck
	$(GO) run $(STATICCHECK) ./...

unit: interop-setup ## each package's own tests, with the race detector but for those of index that run in one thread
	$(GO) test -race -p $(JOBS) -timeout 10m $(UNIT)
	PRIORMESH_ONE_THREAD=1 $(GO) test -timeout 10m ./index

interop: interop-setup ## whole regions of processes, with Orthanc, dicomweb-client and curl
	$(GO) test -race -count=1 -timeout 12m ./interop

interop-setup: ## install what the interop tests need and this machine lacks
	@interop/setup

bench: ## every benchmark once, as a table; BENCH=Index ARGS="-studies 10000000", BENCH=Store ARGS="…" and BENCH=Transfer ARGS="…" pass flags on
	@.ci/bench '$(BENCH)' '$(BENCHTIME)' $(ARGS)

soak: interop-setup ## fuzz targets for FUZZTIME each, the store for CRASHES crashes, the interop tests ROUNDS times with the race detector
	@.ci/soak '$(FUZZTIME)' '$(ROUNDS)' '$(CRASHES)'

clean: ## remove what was built
	rm -rf bin

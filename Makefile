# On a Debian machine with Go every target works in a fresh clone, and installs what it needs. On any
# other machine it says what is missing. See CONTRIBUTING.md.

SHELL := /bin/bash
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
TESTFLAGS ?=
TIMEOUT ?= 15m
FUZZTIME ?= 10s
# The number of simulated schedules of faults in `make proof`.
SCHEDULES ?= 2000
# How long `make proof` breaks everything around the outbox, for each database.
SOAK ?= 3m
# The suites of Debian whose RabbitMQ `make test-all` runs on besides the installed one: 4.0 and the newest, now 4.3.
SUITES ?= trixie sid
# The suite whose RabbitMQ `make proof` runs on; empty means the installed one.
SUITE ?=
export HAREBUS_REQUIRE_BROKER ?= 1

.PHONY: proof proof-order proof-simulated proof-real proof-schedules proof-outbox proof-operator proof-network proof-migrate proof-streams test test-celery test-otel-js board test-installed test-suite test-all race vet lint fmt tidy fuzz bench broker databases browser help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: test-installed ## all tests but the proof, on a private broker of the installed RabbitMQ, and of 4.x where scripts/rabbitmq-root made one
	@for suite in $(SUITES); do \
		if [ "$$(id -u)" = 0 ] && [ -x "/var/lib/harebus-rabbit/$$suite/usr/lib/rabbitmq/bin/rabbitmq-server" ]; then \
			$(MAKE) --no-print-directory test-suite SUITE=$$suite || exit 1; \
		fi; \
	done

test-installed: broker databases browser
	@echo "== tests of all modules; installed: $$(basename /usr/lib/rabbitmq/lib/rabbitmq_server-*)"
	scripts/each-module $(CURDIR)/scripts/go-test -count=1 -timeout $(TIMEOUT) $(TESTFLAGS)

test-suite:
	@echo "== integration tests on $$(basename $$(scripts/rabbitmq-root $(SUITE))/usr/lib/rabbitmq/lib/rabbitmq_server-*)"
	HAREBUS_RABBITMQ_ROOT="$$(scripts/rabbitmq-root $(SUITE))" && export HAREBUS_RABBITMQ_ROOT && cd integration_test && \
		../scripts/go-test -count=1 -timeout $(TIMEOUT) $(TESTFLAGS)

test-all: test-installed ## the same, and RabbitMQ 4.x is fetched where it is missing (root)
	@for suite in $(SUITES); do $(MAKE) --no-print-directory test-suite SUITE=$$suite || exit 1; done

# With AMQP_URL, or with Docker and no apt-get, the tests need no installed server.
broker: ## what the tests need of RabbitMQ: an installed server, unless AMQP_URL names a running one
	@[ -n "$$AMQP_URL" ] || scripts/install-rabbitmq

databases: ## what the tests of the outbox need: PostgreSQL, MariaDB and pgbouncer, installed
	@scripts/install-databases

browser: ## what the tests of harebus ui need: Chromium, installed
	@scripts/install-chromium

race: broker databases browser ## all tests under the race detector (slow)
	scripts/each-module $(CURDIR)/scripts/go-test -race -timeout $(TIMEOUT) $(TESTFLAGS)

vet: ## go vet of all modules
	scripts/each-module go vet ./...

lint: ## golangci-lint of all modules, in the one version that CI uses
	scripts/each-module go run $(GOLANGCI) run --allow-serial-runners --config $(CURDIR)/.golangci.yml ./...

fmt: ## gofmt
	gofmt -w $$(git ls-files '*.go')

tidy: ## go mod tidy of all modules
	scripts/each-module go mod tidy

fuzz: ## each fuzz target for FUZZTIME
	scripts/fuzz $(FUZZTIME)

proof: proof-simulated proof-real proof-schedules proof-outbox proof-operator ## breaks brokers, networks and processes under a ledger, and proves that it would notice: no message is lost

proof-simulated: # the part of the proof in virtual time, and the proof that it would notice
	go test -count=1 $(TESTFLAGS) ./internal/ledger
	go test -count=1 $(TESTFLAGS) -timeout 60m ./internal/proof -schedules $(SCHEDULES) -mutations
	cd schedule && go test -count=1 $(TESTFLAGS) -timeout 10m -mutations .

proof-real: broker # the part of the proof on real brokers; RUN is a pattern of tests
	HAREBUS_RABBITMQ_ROOT="$(if $(SUITE),$$(scripts/rabbitmq-root $(SUITE)),$$HAREBUS_RABBITMQ_ROOT)" && export HAREBUS_RABBITMQ_ROOT && \
		cd integration_test && go test -count=1 -v -timeout 30m -run '$(RUN)' ./proof

proof-schedules: broker # the part of the proof about recurring schedules: instances, brokers and the nodes of a cluster are broken, while two versions run
	HAREBUS_RABBITMQ_ROOT="$(if $(SUITE),$$(scripts/rabbitmq-root $(SUITE)),$$HAREBUS_RABBITMQ_ROOT)" && export HAREBUS_RABBITMQ_ROOT && \
		cd integration_test/schedule && go test -count=1 -v -timeout 60m -run '^(TestChaos|TestCluster|TestMany)$$' . -chaos 3m -cluster 4m -many 10000

proof-order: broker ## breaks processes, brokers and the nodes of a cluster under an ordered queue, and proves that it would notice: messages of a key keep their order. SUITE chooses the RabbitMQ
	go test -count=1 -v $(TESTFLAGS) -timeout 30m ./order -run '^(TestChaos|TestMutants)$$' -schedules 200 -mutations
	HAREBUS_RABBITMQ_ROOT="$(if $(SUITE),$$(scripts/rabbitmq-root $(SUITE)),$$HAREBUS_RABBITMQ_ROOT)" && export HAREBUS_RABBITMQ_ROOT && \
		cd integration_test/order && go test -count=1 -v -timeout 60m -run '^(TestChaos|TestCluster)$$' . -chaos 30s -runs 6 -freeze -cluster 1m

# The part of the proof about operators: those who work with an error queue are killed while they do, six times KILLS in
# each of ROUNDS; a migration is killed KILLS times; a million messages are more than a look may take; a node of a cluster goes.
KILLS ?= 20
ROUNDS ?= 1
FAILED ?= 1000000
proof-operator: broker
	HAREBUS_RABBITMQ_ROOT="$(if $(SUITE),$$(scripts/rabbitmq-root $(SUITE)),$$HAREBUS_RABBITMQ_ROOT)" && export HAREBUS_RABBITMQ_ROOT && \
		cd integration_test && go test -v -count=$(ROUNDS) -timeout 60m -run '^TestOperatorKilled$$' . -kills $(KILLS) && \
		go test -v -count=$(ROUNDS) -timeout 60m -run '^TestMigrateKilled$$' . -migrate-kills $(KILLS) && \
		go test -v -count=1 -timeout 60m -run '^(TestMoreThanALookMayTake|TestNodeOfThreeIsDown)$$' . -failed $(FAILED) -nodes

# The part of the proof about the outbox: services are killed at every step, and databases, on every database; everything
# breaks for SOAK on PostgreSQL and MariaDB; and the proof that it would be noticed. RUN is a pattern of tests.
proof-outbox: broker databases
	HAREBUS_RABBITMQ_ROOT="$(if $(SUITE),$$(scripts/rabbitmq-root $(SUITE)),$$HAREBUS_RABBITMQ_ROOT)" && export HAREBUS_RABBITMQ_ROOT && \
		cd integration_test/outbox && go test -count=1 -v -timeout 60m -run '$(or $(RUN),^(TestCrash|TestOutage|TestDatabaseRestarts|TestBrokerAway|TestSoak|TestMutants)$$)' . -soak $(SOAK) -mutations

proof-migrate: broker ## kills harebus topology migrate under load, 200 times at any moment
	HAREBUS_RABBITMQ_ROOT="$(if $(SUITE),$$(scripts/rabbitmq-root $(SUITE)),$$HAREBUS_RABBITMQ_ROOT)" && export HAREBUS_RABBITMQ_ROOT && \
		cd integration_test && go test -count=1 -v -timeout 60m -run '^TestMigrateKilled$$' . -migrate-kills 200

# The part of the proof about streams: the processes of a group of readers are killed, stopped and frozen, three times on each
# installed version, and the nodes of a cluster once; processes that share a dedup are killed; and the proof that mistakes would be noticed.
proof-streams: broker
	go test -count=1 -timeout 10m -run '^TestMutants$$' ./stream ./dedup -mutations
	for root in "$$HAREBUS_RABBITMQ_ROOT" $$(for suite in $(SUITES); do scripts/rabbitmq-root $$suite; done); do \
		(cd integration_test && HAREBUS_RABBITMQ_ROOT="$$root" go test -count=1 -v -timeout 15m ./stream -lasts 25s -runs 3 -cluster 1m) || exit 1; \
	done

test-celery: broker ## exchanges messages with a real Celery (root, Python 3)
	scripts/celery -c pass && HAREBUS_RABBITMQ_ROOT="$(if $(SUITE),$$(scripts/rabbitmq-root $(SUITE)),$$HAREBUS_RABBITMQ_ROOT)" && export HAREBUS_RABBITMQ_ROOT && \
		cd integration_test && go vet -tags celery . && go test -tags celery -count=1 -v -timeout 10m -run '^TestCelery' .

test-otel-js: ## continues traces of OpenTelemetry's instrumentation for JavaScript, and has it continue ours; CI does not fetch it (npm)
	cd otelbus && go vet -tags oteljs . && go test -tags oteljs -count=1 -v -timeout 5m -run '^TestOpenTelemetryJS$$' .

board: browser ## draws what the board of deploy/grafana shows of the example, by a real Prometheus and Chromium, into docs/board.png (root)
	cd examples/prometheus && go test -count=1 -v -timeout 10m -run '^TestDraw$$' . -draw ../../docs/board.png

proof-network: broker ## the proof on a cluster in network namespaces: partitions, cuts, lost packets (root, iproute2, iptables)
	@command -v iptables >/dev/null && command -v ip >/dev/null || apt-get install -y iproute2 iptables
	cd integration_test && HAREBUS_NAMESPACES=1 go test -count=1 -v -timeout 15m -run '^TestNetwork$$' ./proof

.PHONY: test-cloudevents
test-cloudevents: broker ## exchanges events with the CloudEvents SDK for JavaScript, and takes those of a client of AMQP 1.0 (npm)
	scripts/cloudevents && HAREBUS_RABBITMQ_ROOT="$(if $(SUITE),$$(scripts/rabbitmq-root $(SUITE)),$$HAREBUS_RABBITMQ_ROOT)" && export HAREBUS_RABBITMQ_ROOT && \
		cd integration_test && go vet -tags cloudevents . && go test -tags cloudevents -count=1 -v -timeout 10m -run '^TestCloudEvents' .

bench: broker ## benchmarks of all modules
	scripts/each-module go test -run '^$$' -bench . -benchmem -timeout $(TIMEOUT) $(TESTFLAGS) ./...

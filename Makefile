# One verb each. Everything here is also a plain command: see CONTRIBUTING.md.

.PHONY: help test memory lint api matrix bench scale fuzz models deploys

help: ## this list
	@sed -nE 's/^([a-z]+):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

test: ## the suite on memory, Postgres and MariaDB
	go test -race ./...

memory: ## the suite without servers
	go test -race . ./tests/... ./examples/... -memory

GOLANGCI = go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
lint: ## what .golangci.yml asks for, in the nested modules too
	for mod in go.mod examples/*/go.mod; do (cd $$(dirname $$mod) && $(GOLANGCI) run ./...) || exit 1; done

api: ## the record of the exported API, after a change that is meant
	go test ./internal/apicheck -run TestAPI -update

matrix: ## the suite on every supported version
	scripts/matrix

bench: ## the store beside the same work by hand, as a table
	go run ./internal/bench

scale: ## what an operation costs in logs of 100,000, 1 and 10 million events
	go run ./internal/bench/scale

models: ## the models of sealing and of projections, with spin: whole, and with each step left out
	docs/models/check

deploys: ## 200 random rolling deploys on each store, as a table
	go test -count 1 -timeout 30m -v -run TestRollingDeploys ./tests/deploys -deploys 200

fuzz: ## a short turn of each fuzz target
	for target in $$(grep -ohE '^func Fuzz[A-Za-z]+' *_test.go | sed 's/func //'); do \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime 10s . || exit 1; done

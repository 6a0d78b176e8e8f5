# One verb each. Everything here is also a plain command: see CONTRIBUTING.md.

.PHONY: test memory lint matrix

test: ## the suite on memory, Postgres and MariaDB
	go test -race ./...

memory: ## the suite without servers
	go test -race . -memory

lint: ## formatting, vet, staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@latest ./...

matrix: ## the suite on every supported version
	scripts/matrix

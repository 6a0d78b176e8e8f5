package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"example.com/eventstore"
)

const (
	maxBody     = 64 << 10
	maxCents    = 1_000_000_000_00
	waitTimeout = 5 * time.Second // for the read model
)

// newAPI returns the HTTP API:
//
//	POST /accounts/{id}              {"owner": "Ann", "email": "ann@example.com"}
//	POST /accounts/{id}/deposits     {"cents": 1000}
//	POST /accounts/{id}/withdrawals  {"cents": 300}
//	POST /accounts/{id}/transfers    {"to": "B-2", "cents": 300}
//	GET  /accounts/{id}?at=POSITION  as the read model has it, no older than a receipt's position
//	GET  /accounts?at=POSITION
func newAPI(b *bank) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /accounts/{id}", command(http.StatusCreated, func(ctx context.Context, account string, c Open) (Receipt, error) {
		c.Owner, c.Email = strings.TrimSpace(c.Owner), strings.ToLower(strings.TrimSpace(c.Email))
		if !textPattern.MatchString(c.Owner) || !textPattern.MatchString(c.Email) || !strings.Contains(c.Email, "@") {
			return Receipt{}, badRequest("an account wants an owner and an e-mail address")
		}
		return b.open(ctx, account, c)
	}))
	mux.Handle("POST /accounts/{id}/deposits", command(http.StatusOK, func(ctx context.Context, account string, c Deposit) (Receipt, error) {
		if err := checkCents(c.Cents); err != nil {
			return Receipt{}, err
		}
		return b.handle(ctx, account, c)
	}))
	mux.Handle("POST /accounts/{id}/withdrawals", command(http.StatusOK, func(ctx context.Context, account string, c Withdraw) (Receipt, error) {
		if err := checkCents(c.Cents); err != nil {
			return Receipt{}, err
		}
		return b.handle(ctx, account, c)
	}))
	mux.Handle("POST /accounts/{id}/transfers", command(http.StatusOK, func(ctx context.Context, account string, c Transfer) (Receipt, error) {
		switch {
		case !accountPattern.MatchString(c.To):
			return Receipt{}, badRequest("to: want an account's ID")
		case c.To == account:
			return Receipt{}, badRequest("to: this is the account itself")
		}
		if err := checkCents(c.Cents); err != nil {
			return Receipt{}, err
		}
		return b.transfer(ctx, account, c)
	}))
	mux.Handle("GET /accounts/{id}", question(b, func(r *http.Request) (any, error) { return b.balance(r.Context(), r.PathValue("id")) }))
	mux.Handle("GET /accounts", question(b, func(r *http.Request) (any, error) { return b.list(r.Context()) }))
	return mux
}

var (
	accountPattern = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
	textPattern    = regexp.MustCompile(`^[^\x00-\x1f]{1,200}$`)
)

func checkCents(cents int64) error {
	if cents < 1 || cents > maxCents {
		return badRequest(fmt.Sprintf("cents: want 1 to %d", int64(maxCents)))
	}
	return nil
}

// command serves a command of type C, which comes as JSON.
func command[C any](success int, carryOut func(ctx context.Context, account string, c C) (Receipt, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		receipt, err := func() (receipt Receipt, err error) {
			account := r.PathValue("id")
			if !accountPattern.MatchString(account) {
				return receipt, badRequest("an account's ID has letters, digits and hyphens, at most 64")
			}
			ctx := r.Context()
			if key := r.Header.Get("Idempotency-Key"); len(key) > 255 {
				return receipt, badRequest("Idempotency-Key is longer than 255 bytes")
			} else if key != "" {
				ctx = withRequestKey(ctx, key)
			}
			var c C
			body := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
			body.DisallowUnknownFields()
			if err := body.Decode(&c); err != nil {
				return receipt, badRequest(err.Error())
			}
			return carryOut(ctx, account, c)
		}()
		answer(w, r, success, receipt, err)
	})
}

// question serves what the read model knows, once it has come as far as the client asks.
func question(b *bank, ask func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		result, err := func() (any, error) {
			if err := waitFor(b, r); err != nil {
				return nil, err
			}
			return ask(r)
		}()
		answer(w, r, http.StatusOK, result, err)
	})
}

func waitFor(b *bank, r *http.Request) error {
	text := r.URL.Query().Get("at")
	if text == "" {
		return nil
	}
	at, err := strconv.ParseInt(text, 10, 64)
	if err != nil || at < 0 {
		return badRequest("at: want a position")
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), waitTimeout, errBehind)
	defer cancel()
	if err := b.wait(ctx, b.store, eventstore.Position(at)); err != nil {
		if errors.Is(context.Cause(ctx), errBehind) {
			return errBehind
		}
		return err
	}
	return nil
}

// errBehind says that the read model has not come as far as was asked.
var errBehind = errors.New("the read model is behind: try again")

type badRequest string

func (e badRequest) Error() string { return string(e) }

// statusOf is the HTTP status of an error.
func statusOf(err error) int {
	var bad badRequest
	switch {
	case errors.As(err, &bad):
		return http.StatusBadRequest
	case errors.Is(err, ErrNoAccount):
		return http.StatusNotFound
	case errors.Is(err, ErrAccountExists), errors.Is(err, ErrEmailTaken), errors.Is(err, eventstore.ErrConflict):
		// A conflict that is left at the end: too many at once, or a key that belongs to a request on
		// another account.
		return http.StatusConflict
	case errors.Is(err, ErrNotEnoughMoney), errors.Is(err, ErrKeyReused):
		return http.StatusUnprocessableEntity
	case errors.Is(err, errBehind), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// answer writes a result or an error as JSON. Of an error that is nobody's fault but the service's
// the client learns nothing, and the log all.
func answer(w http.ResponseWriter, r *http.Request, success int, result any, err error) {
	status := success
	if err != nil {
		status = statusOf(err)
		text := err.Error()
		if status == http.StatusInternalServerError {
			slog.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
			text = "internal error"
		}
		result = map[string]string{"error": text}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(result) // a client that has gone needs no answer
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"

	"example.com/eventstore"
)

const (
	maxBody     = 64 << 10
	waitTimeout = 5 * time.Second // for a projection
)

// newAPI returns the HTTP API. Titles, copies and members have IDs that the client gives. A command answers
// with a position; with ?at= a question is answered when its projection has come that far.
//
//	PUT    /copies/{id}                 {"title": "dune"}
//	PUT    /members/{id}                {"name": "Ann"}
//	POST   /titles/{id}/reservations    {"member": "m-1"}
//	POST   /copies/{id}/loan            {"member": "m-1"}
//	DELETE /copies/{id}/loan            the copy is returned
//	DELETE /members/{id}                the member is erased
//	GET    /copies/{id}?at=POSITION     no older than the process manager at this position
//	GET    /members/{id}?at=POSITION    no older than the read model at this position
func newAPI(l *library) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("PUT /copies/{id}", command("title", l.add))
	mux.Handle("PUT /members/{id}", command("name", l.register))
	mux.Handle("POST /titles/{id}/reservations", command("member", l.reserve))
	mux.Handle("POST /copies/{id}/loan", command("member", l.lend))
	mux.Handle("DELETE /copies/{id}/loan", command("", l.takeBack))
	mux.Handle("DELETE /members/{id}", command("", l.erase))
	mux.Handle("GET /copies/{id}", question(l.store, l.holds.Wait, l.copy))
	mux.Handle("GET /members/{id}", question(l.store, l.cards.Wait, l.card))
	return mux
}

// command serves a command on what the path names. Its argument, if it has one, is the only field of the body.
func command(field string, run func(ctx context.Context, id, arg string) (eventstore.Position, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		at, err := func() (eventstore.Position, error) {
			id := r.PathValue("id")
			if !idPattern.MatchString(id) {
				return 0, badRequest("an ID has letters, digits and hyphens, at most 64")
			}
			var body map[string]string
			if field != "" {
				if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&body); err != nil {
					return 0, badRequest(err.Error())
				}
				if pattern := argPatterns[field]; len(body) != 1 || !pattern.MatchString(body[field]) {
					return 0, badRequest("want a field " + field + " that matches " + pattern.String())
				}
			}
			return run(r.Context(), id, body[field])
		}()
		answer(w, r, map[string]eventstore.Position{"position": at}, err)
	}
}

var (
	idPattern   = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
	argPatterns = map[string]*regexp.Regexp{"title": idPattern, "member": idPattern, "name": regexp.MustCompile(`^[^\x00-\x1f]{1,200}$`)}
)

// question serves what ask knows, once a projection has come as far as the client wants.
func question[T any](store *eventstore.Store, wait func(context.Context, *eventstore.Store, eventstore.Position) error, ask func(ctx context.Context, id string) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		result, err := func() (result T, err error) {
			if text := r.URL.Query().Get("at"); text != "" {
				at, err := strconv.ParseInt(text, 10, 64)
				if err != nil || at < 0 {
					return result, badRequest("at: want a position")
				}
				ctx, cancel := context.WithTimeout(r.Context(), waitTimeout)
				defer cancel()
				if err := wait(ctx, store, eventstore.Position(at)); err != nil {
					return result, err
				}
			}
			return ask(r.Context(), r.PathValue("id"))
		}()
		answer(w, r, result, err)
	}
}

type badRequest string

func (e badRequest) Error() string { return string(e) }

// statusOf is the HTTP status of an error. An ErrConflict that is left after all attempts means that too
// many wanted the same at once.
func statusOf(err error) int {
	is := func(targets ...error) bool {
		return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
	}
	var bad badRequest
	switch {
	case err == nil:
		return http.StatusOK
	case errors.As(err, &bad):
		return http.StatusBadRequest
	case is(ErrNoCopy, ErrNoMember):
		return http.StatusNotFound
	case is(ErrCopyExists, ErrMemberExists, ErrLent, ErrNotLent, ErrHeld, ErrReserved, ErrTooManyLoans, ErrHasLoans, eventstore.ErrConflict):
		return http.StatusConflict
	case is(context.Canceled, context.DeadlineExceeded, eventstore.ErrRetryTx):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// answer writes a result or an error as JSON. The cause of an internal error goes to the log only.
func answer(w http.ResponseWriter, r *http.Request, result any, err error) {
	status := statusOf(err)
	if err != nil {
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

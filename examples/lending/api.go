package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
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
// with a position. With ?at= a question is answered when its projection has come that far.
//
// PUT and DELETE may be repeated when an answer was lost, by a proxy too. A POST may not: the copy may have gone to
// another member meanwhile.
//
//	PUT    /copies/{id}                 {"title": "dune"}
//	PUT    /members/{id}                {"name": "Ann"}
//	POST   /titles/{id}/reservations    {"member": "m-1"}
//	POST   /copies/{id}/loan            {"member": "m-1"}
//	POST   /copies/{id}/return
//	DELETE /members/{id}                the member is erased
//	GET    /copies/{id}?at=POSITION     no older than the process manager at this position
//	GET    /members/{id}?at=POSITION    no older than the read model at this position
func newAPI(l *library) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("PUT /copies/{id}", command(http.StatusCreated, "title", l.add))
	mux.Handle("PUT /members/{id}", command(http.StatusCreated, "name", l.register))
	mux.Handle("POST /titles/{id}/reservations", command(http.StatusOK, "member", l.reserve))
	mux.Handle("POST /copies/{id}/loan", command(http.StatusOK, "member", l.lend))
	mux.Handle("POST /copies/{id}/return", command(http.StatusOK, "", l.takeBack))
	mux.Handle("DELETE /members/{id}", command(http.StatusOK, "", l.erase))
	mux.Handle("GET /copies/{id}", question(l.store, l.holds.Wait, l.copy))
	mux.Handle("GET /members/{id}", question(l.store, l.cards.Wait, l.card))
	return mux
}

// command serves a command on what the path names. Its argument, if it has one, is the only field of the body.
func command(success int, field string, run func(ctx context.Context, id, arg string) (eventstore.Position, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		at, err := func() (eventstore.Position, error) {
			id, err := idOf(r)
			if err != nil {
				return 0, err
			}
			arg := ""
			if field != "" {
				if arg, err = argument(w, r, field); err != nil {
					return 0, err
				}
			}
			return run(r.Context(), id, arg)
		}()
		answer(w, r, success, map[string]eventstore.Position{"position": at}, err)
	}
}

func idOf(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if !idPattern.MatchString(id) {
		return "", badRequest("an ID has letters, digits and hyphens, at most 64")
	}
	return id, nil
}

// argument returns the only field of a request's body.
func argument(w http.ResponseWriter, r *http.Request, field string) (string, error) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return "", err
	}
	var body map[string]string
	if err := json.Unmarshal(text, &body); err != nil {
		return "", badRequest(err.Error())
	}
	if pattern := argPatterns[field]; len(body) != 1 || !pattern.MatchString(body[field]) {
		return "", badRequest("want a field " + field + " that matches " + pattern.String())
	}
	return body[field], nil
}

var (
	idPattern   = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
	argPatterns = map[string]*regexp.Regexp{"title": idPattern, "member": idPattern, "name": regexp.MustCompile(`^[^\x00-\x1f]{1,200}$`)}
)

// question serves what ask knows, once a projection has come as far as the client wants.
func question[T any](store *eventstore.Store, wait func(context.Context, *eventstore.Store, eventstore.Position) error, ask func(ctx context.Context, id string) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		result, err := func() (result T, err error) {
			id, err := idOf(r)
			if err != nil {
				return result, err
			}
			if text := r.URL.Query().Get("at"); text != "" {
				at, err := strconv.ParseInt(text, 10, 64)
				if err != nil || at < 0 {
					return result, badRequest("at: want a position")
				}
				ctx, cancel := context.WithTimeoutCause(r.Context(), waitTimeout, errBehind)
				defer cancel()
				if err := wait(ctx, store, eventstore.Position(at)); err != nil {
					return result, cmp.Or(context.Cause(ctx), err)
				}
			}
			return ask(r.Context(), id)
		}()
		answer(w, r, http.StatusOK, result, err)
	}
}

// errBehind says that a projection has not come as far as was asked.
var errBehind = errors.New("the position is not reached yet: try again")

type badRequest string

func (e badRequest) Error() string { return string(e) }

// statusOf is the HTTP status of an error. An ErrConflict that is left after all attempts means that too
// many wanted the same at once.
func statusOf(err error) int {
	is := func(targets ...error) bool {
		return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
	}
	var bad badRequest
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &bad):
		return http.StatusBadRequest
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge
	case is(ErrNoCopy, ErrNoMember):
		return http.StatusNotFound
	case is(ErrCopyExists, ErrMemberExists, ErrLent, ErrNotLent, ErrHeld, ErrReserved, ErrTooManyLoans, ErrHasLoans, eventstore.ErrConflict):
		return http.StatusConflict
	case is(errBehind, context.Canceled, context.DeadlineExceeded, eventstore.ErrRetryTx):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// answer writes a result or an error as JSON. The cause of an internal error goes to the log only.
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

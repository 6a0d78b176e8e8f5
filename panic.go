// Panics of the application's code: PanicError, and how goroutines and the logger survive them.

package eventstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime"
	"runtime/debug"
	"strings"
)

// PanicError is the error of an application's function that panicked while a projection or a relay ran.
// That is a handler, a fold, Publish, OnError, Init, a method of a [ReadModel], an upcaster, a codec,
// middleware or a function of [Options]. What it did in the transaction is undone. Where there is an
// event, OnError decides about it, as about any error, and finds the PanicError with [errors.As].
// [ProjectionInfo].Error has its text, [Options].Logger its stack too.
//
// Calls that run nothing in the background do not recover: [Aggregate.Execute], [Aggregate.Load],
// [Query.Run] and [Store.Append], for example, store nothing, leave nothing open, and the panic goes on
// to their caller. So does [runtime.Goexit], which the FailNow of a test calls, everywhere: a run is undone
// and gives its lease back, and its goroutine ends.
type PanicError struct {
	Value any    // what was given to panic
	Stack []byte // of the goroutine that panicked, as [debug.Stack] formats it

	at string // the function that panicked, and its line
}

// Error says where the panic was and what its value is, without the stack.
func (e *PanicError) Error() string {
	value := strings.TrimPrefix(fmt.Sprint(e.Value), prefix)
	if e.at == "" {
		return prefix + "panic: " + value
	}
	return prefix + "panic in " + e.at + ": " + value
}

// Unwrap returns Value if it is an error, and nil otherwise.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// recoverTo turns a panic into *err. It is deferred.
func recoverTo(err *error) {
	value := recover()
	if value == nil {
		return
	}
	if e, ok := value.(*PanicError); ok {
		*err = e // the stack of the first panic tells more
		return
	}
	*err = &PanicError{Value: value, Stack: debug.Stack(), at: panicSite()}
}

// survive returns fn's error, or a panic of fn as one.
func survive(fn func() error) (err error) {
	defer recoverTo(&err)
	if err = fn(); err != nil {
		// Its methods are the application's too. Those that panic do it here.
		_, _ = err.Error(), errors.Is(err, ErrConflict)
	}
	return err
}

// panicSite returns the function that has panicked, as "bank.apply (bank.go:12)", or "" if it is not known.
// It is called while that is being recovered. Where a function has recovered and panicked again, as encoding/json
// does, it is the first.
func panicSite() (at string) {
	pcs := make([]uintptr, 128)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for panicked := false; ; {
		frame, more := frames.Next()
		switch {
		case frame.Function == "runtime.gopanic":
			panicked = true
		case strings.HasSuffix(frame.Function, "/eventstore.survive"):
			return at
		case panicked && frame.Function != "" && !strings.HasPrefix(frame.Function, "runtime."):
			panicked = false
			at = fmt.Sprintf("%s (%s:%d)", path.Base(frame.Function), path.Base(frame.File), frame.Line)
		}
		if !more {
			return at
		}
	}
}

// background is a call that runs in a goroutine of its own. If it panics there, which would end the process, the
// goroutine that waits for its result makes it again, so that the panic is that one's.
type background[T any] struct {
	call     func() T
	ended    chan struct{}
	result   T
	returned bool // there is a result
}

func inBackground[T any](call func() T) *background[T] {
	b := &background[T]{call: call, ended: make(chan struct{})}
	go func() {
		defer close(b.ended)
		defer func() { _ = recover() }() // wait makes the call again
		b.result = call()
		b.returned = true
	}()
	return b
}

// end waits until the goroutine has ended.
func (b *background[T]) end() { <-b.ended }

// wait returns the result.
func (b *background[T]) wait() T {
	if b.end(); b.returned {
		return b.result
	}
	return b.call()
}

// survivingLogger returns a logger that drops a record on which l's handler panics: what is logged must
// not decide what is stored.
func survivingLogger(l *slog.Logger) *slog.Logger { return slog.New(survivingHandler{l.Handler()}) }

type survivingHandler struct{ slog.Handler }

func (h survivingHandler) Enabled(ctx context.Context, level slog.Level) (enabled bool) {
	defer func() { _ = recover() }()
	return h.Handler.Enabled(ctx, level)
}

func (h survivingHandler) Handle(ctx context.Context, r slog.Record) (err error) {
	defer recoverTo(&err)
	return h.Handler.Handle(ctx, r)
}

package eventstore

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// TestBackgroundPanics has a call in the background panic, or end its goroutine: whoever waits for it makes it again.
func TestBackgroundPanics(t *testing.T) {
	for what, do := range map[string]func(){"panic": func() { panic("background") }, "Goexit": runtime.Goexit} {
		calls := 0
		b := inBackground(func() int {
			if calls++; calls == 1 {
				do()
			}
			return calls
		})
		if got := b.wait(); got != 2 {
			t.Errorf("%s: the result is of call %d, want the second", what, got)
		}
	}
	calls := 0
	b := inBackground(func() int {
		calls++
		panic(errors.New("again"))
	})
	b.end()
	func() {
		defer func() {
			if v := recover(); fmt.Sprint(v) != "again" {
				t.Errorf("the goroutine that waits recovers %v", v)
			}
		}()
		b.wait()
	}()
	if calls != 2 {
		t.Errorf("%d calls, want two", calls)
	}
}

// shyError is an error whose methods panic.
type shyError struct{}

func (shyError) Error() string   { panic("shy") }
func (shyError) Is(error) bool   { panic("shy") }
func (shyError) Unwrap() []error { return nil }

func TestPanicError(t *testing.T) {
	known := errors.New("known")
	var index []int
	for _, c := range []struct {
		name string
		fn   func() error
		text string // without the line
		is   error
	}{
		{"a value", func() error { panic(7) }, "eventstore: panic in eventstore.TestPanicError.func1 (panic_test.go:): 7", nil},
		{"an error", func() error { panic(fmt.Errorf("eventstore: %w", known)) }, "eventstore: panic in eventstore.TestPanicError.func2 (panic_test.go:): known", known},
		{"of the runtime", func() error { index[3]++; return nil }, "eventstore: panic in eventstore.TestPanicError.func3 (panic_test.go:): runtime error: index out of range [3] with length 0", nil},
		{"panicked again", func() error {
			defer func() { panic(recover()) }()
			panic(known)
		}, "eventstore: panic in eventstore.TestPanicError.func4 (panic_test.go:): known", known},
		{"an error whose methods panic", func() error { return shyError{} }, "eventstore: panic in eventstore.shyError.Error (panic_test.go:): shy", nil},
		{"given on", func() error {
			err := survive(func() error { panic(known) })
			panic(err)
		}, "eventstore: panic in eventstore.TestPanicError.func6.1 (panic_test.go:): known", known},
	} {
		err := survive(c.fn)
		var p *PanicError
		if !errors.As(err, &p) {
			t.Errorf("%s: %v, want a *PanicError", c.name, err)
			continue
		}
		text := p.Error()
		if before, after, ok := strings.Cut(text, "panic_test.go:"); ok {
			text = before + "panic_test.go:" + strings.TrimLeft(after, "0123456789")
		}
		if text != c.text || !strings.Contains(string(p.Stack), "panic_test.go:") {
			t.Errorf("%s: the text is %q, want %q; the stack is\n%s", c.name, text, c.text, p.Stack)
		}
		if c.is != nil && !errors.Is(p, c.is) || c.is == nil && c.name == "a value" && p.Unwrap() != nil {
			t.Errorf("%s: it wraps %v, want %v", c.name, p.Unwrap(), c.is)
		}
	}
	if err := survive(func() error { return known }); err != known {
		t.Errorf("an error comes back as %v", err)
	}
	if text := (&PanicError{Value: "by hand"}).Error(); text != "eventstore: panic: by hand" {
		t.Errorf("without a stack the text is %q", text)
	}
}

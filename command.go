// Command: what an aggregate does when it is told to.

package eventstore

import (
	"context"
	"fmt"
)

// Command is what an aggregate does when it is told to: one entry of [Aggregate].Commands, made by
// [OnCommand].
type Command[S any] struct {
	sample any // the zero value of the command's type; nil: an interface
	takes  func(command any) bool
	decide func(ctx context.Context, r *Root[S], command any) error
	err    error
}

// OnCommand has decide carry out commands of type C, given as a C or a *C: it looks at the root's
// state and records events, or returns an error. Like the decide of [Aggregate.Execute] it may run
// several times for one command.
func OnCommand[C, S any](decide func(ctx context.Context, r *Root[S], c C) error) Command[S] {
	var zero C
	cmd := Command[S]{sample: zero}
	if decide == nil {
		cmd.err = invalid("OnCommand[%T]: its function is nil", zero)
	}
	cmd.takes = func(command any) bool { _, ok := commandAs[C](command); return ok }
	cmd.decide = func(ctx context.Context, r *Root[S], command any) error {
		c, _ := commandAs[C](command)
		return decide(ctx, r, c)
	}
	return cmd
}

func commandAs[C any](command any) (c C, ok bool) {
	if c, ok = command.(C); ok {
		return c, true
	}
	if p, isPointer := command.(*C); isPointer && p != nil {
		return *p, true
	}
	return c, false
}

// checkCommands finds what is wrong with a list of commands.
func checkCommands[S any](field string, commands []Command[S]) error {
	for i := range commands {
		c := &commands[i]
		switch {
		case c.err != nil:
			return within(fmt.Sprintf("%s[%d]", field, i), c.err)
		case c.decide == nil:
			return invalid("%s[%d] is the zero Command", field, i)
		}
		for j := range i {
			if c.sample != nil && commands[j].takes(c.sample) {
				return invalid("%s: entries %d and %d both take a %T", field, j, i, c.sample)
			}
		}
	}
	return nil
}

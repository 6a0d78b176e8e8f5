package eventstore

import "time"

// stall is the hole that keeps the sealed position where it is, as of the last look.
type stall struct {
	at     Position // zero: there is none
	since  time.Time
	waited time.Duration // from since to the last look
	due    time.Duration // to be waited until the logger is told next
	told   bool
}

// stallTime is how long sealing waits at a hole until the logger is told.
const stallTime = 5 * time.Second

// notice is what the logger is to be told.
type notice struct {
	text string
	args []any
}

// watch finds out whether a look has left sealing at a hole, and what is to be told of that: when
// the hole has been there for long, and when it is over.
func (z *sealer) watch() (out []notice) {
	now, at := z.now(), z.sealed+1
	h := z.holes[at]
	if was := &z.stall; was.at > 0 && (h == nil || was.at != at) {
		if was.told {
			out = append(out, notice{"sealing goes on", []any{"position", was.at, "waited", now.Sub(was.since)}})
		}
		z.stall = stall{}
	}
	if h == nil {
		return out
	}
	if z.stall.at == 0 {
		z.stall = stall{at: at, since: h.seen, due: stallTime}
	}
	s := &z.stall
	if s.waited = now.Sub(s.since); s.waited < s.due {
		return out
	}
	s.told = true
	for s.due <= s.waited {
		s.due *= 2
	}
	args := []any{"position", at, "waited", s.waited}
	if len(h.writers) > 0 {
		ids := make([]string, len(h.writers))
		for i, w := range h.writers {
			ids[i] = w.id
		}
		args = append(args, "writers", ids)
	}
	return append(out, notice{"sealing waits", args})
}

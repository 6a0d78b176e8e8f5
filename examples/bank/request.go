package main

import (
	"context"
	"strconv"

	"example.com/eventstore"
	"github.com/google/uuid"
)

// A request that the client may repeat carries an Idempotency-Key, and the IDs of its events are
// derived from that. The store takes each ID once: however often the request is sent, and to
// however many processes at once, its events are stored once.

type requestKeyType struct{}

// withRequestKey returns a context for a request with this key.
func withRequestKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, requestKeyType{}, key)
}

func requestKey(ctx context.Context) (string, bool) {
	key, ok := ctx.Value(requestKeyType{}).(string)
	return key, ok
}

// keyNamespace is the UUIDv5 namespace of the event IDs. It must stay.
var keyNamespace = uuid.MustParse("7a3e6f6e-53c5-4c26-9f4f-6f0f6fb3f0a5")

// eventID returns the ID of the nth event of a request.
func eventID(key string, nth int) uuid.UUID {
	return uuid.NewSHA1(keyNamespace, []byte(key+"\x00"+strconv.Itoa(nth)))
}

// requestIDs gives the events of a request with a key their IDs.
var requestIDs = eventstore.Middleware{
	Append: func(ctx context.Context, b eventstore.Batch, next func(context.Context, eventstore.Batch) ([]eventstore.Event, error)) ([]eventstore.Event, error) {
		if key, ok := requestKey(ctx); ok {
			for i := range b.Events {
				b.Events[i].ID = eventID(key, i)
			}
		}
		return next(ctx, b)
	},
}

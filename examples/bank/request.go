package main

import (
	"context"

	"github.com/google/uuid"
)

// A request that the client may repeat carries an Idempotency-Key, and the ID of its event is derived
// from that. The store takes each ID once: however often the request is sent, and to however many
// processes at once, its event is stored once.

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

// eventID returns the ID of a request's event.
func eventID(key string) uuid.UUID { return uuid.NewSHA1(keyNamespace, []byte(key)) }

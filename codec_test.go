package eventstore_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	es "example.com/eventstore"
	"example.com/eventstore/internal/storetest"
)

// personal is what a payload with personal data says of itself: whose it is, and what is to be seen
// of it once that person's key is forgotten.
type personal interface {
	subject() string
	redact()
}

// moved holds personal data.
type moved struct {
	Person  string `json:"person"`
	Address string `json:"address"`
}

func (moved) EventName() string { return "person.moved" }
func (m moved) subject() string { return m.Person }
func (m *moved) redact()        { m.Address = "(erased)" }

// vault keeps a key for each subject, and forgets it when asked to.
type vault struct {
	mu   sync.Mutex
	keys map[string][]byte
}

func (v *vault) key(subject string, create bool) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys[subject] == nil && create {
		v.keys[subject] = make([]byte, 32)
		_, _ = rand.Read(v.keys[subject]) // which never fails
	}
	return v.keys[subject]
}

func (v *vault) forget(subject string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.keys, subject)
}

// sealed is what is stored of a payload with personal data.
type sealed struct {
	Subject string `json:"$subject"`
	Secret  []byte `json:"$secret"`
}

// shredding is a codec that encrypts personal payloads with their subject's key.
type shredding struct{ vault *vault }

func (c shredding) Marshal(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	p, ok := v.(interface{ subject() string })
	if err != nil || !ok {
		return text, err
	}
	gcm, err := c.cipher(c.vault.key(p.subject(), true))
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return json.Marshal(sealed{p.subject(), gcm.Seal(nonce, nonce, text, nil)})
}

func (c shredding) Unmarshal(data []byte, v any) error {
	p, ok := v.(personal)
	if !ok {
		return json.Unmarshal(data, v)
	}
	var s sealed
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	key := c.vault.key(s.Subject, false)
	if key == nil {
		p.redact()
		return nil
	}
	gcm, err := c.cipher(key)
	if err != nil {
		return err
	}
	if len(s.Secret) < gcm.NonceSize() {
		return errors.New("the secret is cut off")
	}
	text, err := gcm.Open(nil, s.Secret[:gcm.NonceSize()], s.Secret[gcm.NonceSize():], nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

func (shredding) cipher(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

type addresses []string

var people = es.Aggregate[addresses]{Stream: "people", When: []es.Fold[addresses]{
	es.On(func(a *addresses, e moved) { *a = append(*a, e.Address) }),
	es.On(func(a *addresses, e storetest.Deposited) { *a = append(*a, fmt.Sprint(e.Cents)) }),
}}

// TestCodecShredding encrypts each person's payloads with a key of their own. When the key is
// forgotten the events stay where they are, and show a declared text in its place.
func TestCodecShredding(t *testing.T) {
	storetest.ForEachLane(t, func(t *testing.T, l storetest.Lane) {
		v := &vault{keys: map[string][]byte{}}
		s := l.Open(t, &es.Options{Codec: shredding{v}})
		storetest.CreateStream(t, s, "people")
		for _, p := range []string{"ann", "bob"} {
			if _, err := people.Execute(t.Context(), s, p, func(r *es.Root[addresses]) error {
				r.Record(moved{p, p + "'s first"})
				r.Record(storetest.Deposited{Cents: 5})
				r.Record(moved{p, p + "'s second"})
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		check := func(want map[string]string) {
			t.Helper()
			for p, list := range want {
				r, err := people.Load(t.Context(), s, p)
				if err != nil || strings.Join(r.State(), ", ") != list || r.Version() != 3 {
					t.Errorf("%s: %q at %d (%v), want %q at 3", p, r.State(), r.Version(), err, list)
				}
			}
		}
		check(map[string]string{"ann": "ann's first, 5, ann's second", "bob": "bob's first, 5, bob's second"})
		before := storetest.Everything(t, s)
		for _, ev := range before {
			if bytes.Contains(ev.Data, []byte("first")) || bytes.Contains(ev.Data, []byte("second")) {
				t.Errorf("event %d is stored as %s, which can be read", ev.Position, ev.Data)
			}
		}
		v.forget("ann")
		check(map[string]string{"ann": "(erased), 5, (erased)", "bob": "bob's first, 5, bob's second"})
		storetest.SameEvents(t, "what is stored", storetest.Everything(t, s), before)
		if m, err := es.Decode[moved](before[0]); err != nil || m.Address != "(erased)" {
			t.Errorf("decoded as %+v (%v)", m, err)
		}
		q := es.Query[int]{From: es.FromAll(), When: []es.Fold[int]{es.On(func(n *int, e moved) {
			if e.Address == "(erased)" {
				*n++
			}
		})}}
		if n, err := q.Run(t.Context(), s); n != 2 || err != nil {
			t.Errorf("%d erased addresses (%v), want 2", n, err)
		}
	})
}

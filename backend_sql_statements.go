// The cache of prepared statements.

package eventstore

import (
	"container/list"
	"context"
	"database/sql"
	"sync"
)

// statementCache keeps the statements of a store in the form that its database takes and, where
// the dialect asks for it, prepared: a driver like go-sql-driver's prepares, executes and closes
// every statement that has parameters, unless it was prepared before or the caller's DSN says
// interpolateParams. It keeps the most recently used ones.
type statementCache struct {
	db      *sql.DB
	dialect *Dialect
	prefix  string

	mu        sync.Mutex
	byText    map[string]*list.Element // of *statement
	order     *list.List               // the most recently used first
	preparing map[string]chan struct{} // closed when it is over
	retired   []*sql.Stmt              // to be closed
	closing   bool                     // somebody is at it
}

const (
	// maxStatements is enough for every statement of the store in a few shapes each; servers allow
	// thousands.
	maxStatements = 100
	// maxRetired bounds those that the server keeps besides, while they can't be closed.
	maxRetired = 100
)

// statement is one text in use by any number of callers.
type statement struct {
	cache   *statementCache
	key     string
	text    string
	stmt    *sql.Stmt // nil: not prepared
	users   int
	evicted bool
}

func newStatementCache(db *sql.DB, dialect *Dialect, prefix string) *statementCache {
	return &statementCache{db: db, dialect: dialect, prefix: prefix, byText: map[string]*list.Element{}, order: list.New(), preparing: map[string]chan struct{}{}}
}

// get returns the statement for a text of the dialect; the caller releases it. It prepares a new
// one only if mayPrepare: while a transaction holds a connection, asking the pool for another
// could wait forever.
func (c *statementCache) get(ctx context.Context, text string, mayPrepare bool) (*statement, error) {
	mayPrepare = mayPrepare && c.dialect.prepares && c.closeRetired()
	st, err := c.find(ctx, text, mayPrepare)
	if st != nil || err != nil {
		return st, err
	}
	st = &statement{cache: c, key: text, text: c.dialect.bind(c.prefix, text), users: 1}
	switch {
	case mayPrepare:
		st.stmt, err = c.db.PrepareContext(ctx, st.text)
		c.prepared(st, err)
		return st, err
	case c.dialect.prepares:
		st.evicted = true // known to nobody else, and nothing to close
		return st, nil
	}
	return c.add(st), nil
}

// find returns what is known. If that is nothing, one caller of those that may prepare gets nil,
// and has to call prepared; the others wait for it.
func (c *statementCache) find(ctx context.Context, text string, mayPrepare bool) (*statement, error) {
	for {
		c.mu.Lock()
		if el, ok := c.byText[text]; ok {
			c.order.MoveToFront(el)
			st := el.Value.(*statement)
			st.users++
			c.mu.Unlock()
			return st, nil
		}
		other := c.preparing[text]
		if mayPrepare && other == nil {
			c.preparing[text] = make(chan struct{})
		}
		c.mu.Unlock()
		if !mayPrepare || other == nil {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-other:
		}
	}
}

// prepared makes st known, if it could be prepared, and wakes those who wait for that.
func (c *statementCache) prepared(st *statement, err error) {
	if err == nil {
		c.add(st)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.preparing[st.key])
	delete(c.preparing, st.key)
}

// add makes st known, unless another is by now: then that one is returned.
func (c *statementCache) add(st *statement) *statement {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byText[st.key]; ok {
		st = el.Value.(*statement)
		st.users++
		return st
	}
	c.byText[st.key] = c.order.PushFront(st)
	if c.order.Len() > maxStatements {
		c.evict(c.order.Back())
	}
	return st
}

func (c *statementCache) evict(el *list.Element) {
	st := c.order.Remove(el).(*statement)
	delete(c.byText, st.key)
	st.evicted = true
	if st.users == 0 {
		st.retire()
	}
}

// drop has nobody use a statement any more beside those that do.
func (c *statementCache) drop(st *statement) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byText[st.key]; ok && el.Value == st {
		c.evict(el)
	}
}

// close gives back what the server holds, once nobody uses it any more.
func (c *statementCache) close() {
	c.mu.Lock()
	for c.order.Len() > 0 {
		c.evict(c.order.Back())
	}
	c.mu.Unlock()
	c.closeRetired()
}

// closeRetired has the statements closed that nobody uses any more, and says whether they are few.
// Nobody waits for that: closing one waits for every connection that it was prepared on, and these
// may be waiting for a lock of somebody's transaction.
func (c *statementCache) closeRetired() (few bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.retired) > 0 && !c.closing {
		c.closing = true
		go c.closeAll()
	}
	return len(c.retired) < maxRetired
}

func (c *statementCache) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.retired) > 0 {
		stmt := c.retired[0]
		c.retired = c.retired[1:]
		c.mu.Unlock()
		// A statement that can't be closed goes with its connection.
		_ = stmt.Close()
		c.mu.Lock()
	}
	c.retired, c.closing = nil, false
}

func (st *statement) release() {
	st.cache.mu.Lock()
	defer st.cache.mu.Unlock()
	st.users--
	if st.users == 0 && st.evicted {
		st.retire()
	}
}

func (st *statement) retire() {
	if st.stmt != nil {
		st.cache.retired = append(st.cache.retired, st.stmt)
	}
}

// executor is what can run a statement: *sql.DB, *sql.Conn and *sql.Tx, and *sql.Stmt with its text
// left out.
type executor interface {
	ExecContext(ctx context.Context, text string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

type prepared struct{ *sql.Stmt }

func (p prepared) ExecContext(ctx context.Context, _ string, args ...any) (sql.Result, error) {
	return p.Stmt.ExecContext(ctx, args...)
}

func (p prepared) QueryContext(ctx context.Context, _ string, args ...any) (*sql.Rows, error) {
	return p.Stmt.QueryContext(ctx, args...)
}

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

	mu     sync.Mutex
	byText map[string]*list.Element // of *statement
	order  *list.List               // the most recently used first
}

// maxStatements is enough for every statement of the store in a few shapes each; servers allow
// thousands.
const maxStatements = 100

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
	return &statementCache{db: db, dialect: dialect, prefix: prefix, byText: map[string]*list.Element{}, order: list.New()}
}

// get returns the statement for a text of the dialect; the caller releases it. It prepares a new
// one only if mayPrepare: while a transaction holds a connection, asking the pool for another
// could wait forever.
func (c *statementCache) get(ctx context.Context, text string, mayPrepare bool) (*statement, error) {
	if st := c.find(text); st != nil {
		return st, nil
	}
	st := &statement{cache: c, key: text, text: c.dialect.bind(c.prefix, text), users: 1}
	if c.dialect.prepares {
		if !mayPrepare {
			st.evicted = true // known to nobody else, and nothing to close
			return st, nil
		}
		var err error
		if st.stmt, err = c.db.PrepareContext(ctx, st.text); err != nil {
			return nil, err
		}
	}
	return c.add(st), nil
}

func (c *statementCache) find(text string) *statement {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.byText[text]
	if !ok {
		return nil
	}
	c.order.MoveToFront(el)
	st := el.Value.(*statement)
	st.users++
	return st
}

// add makes st known, unless another caller was faster: then that one's is returned.
func (c *statementCache) add(st *statement) *statement {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byText[st.key]; ok {
		st.close()
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
		st.close()
	}
}

// close gives back what the server holds, once nobody uses it any more.
func (c *statementCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.order.Len() > 0 {
		c.evict(c.order.Back())
	}
}

func (st *statement) release() {
	st.cache.mu.Lock()
	defer st.cache.mu.Unlock()
	st.users--
	if st.users == 0 && st.evicted {
		st.close()
	}
}

func (st *statement) close() {
	if st.stmt != nil {
		// A statement that can't be closed goes with its connection.
		_ = st.stmt.Close()
	}
}

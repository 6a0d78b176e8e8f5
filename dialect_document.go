// What the dialects' statements of documents are given and return.

package eventstore

// documentStatements read and write documents. Lists are as Dialect.lists makes them.
type documentStatements struct {
	get    string // key, name; one row if there is such a projection: its kind, and state and position of the document, or NULLs
	listed string // list of keys, name; rows: key, state, position, labels

	// Pages: name, lower key, upper key, key to leave out, limit; rows: key, state, position. By label, the label
	// comes after the name. None goes through more rows than it returns and one page.
	forward, backward                 string
	labelledForward, labelledBackward string

	put         string // up to the rows
	putRow      string // one row: name, key, position, state, labels
	putTail     string // behind the rows
	putLists    string // the same for lists of keys, positions, states and labels: lists, name; "": by rows
	insertLists string // the same, if none of them is stored; with putLists
	updateLists string // the same, if all of them are; it leaves out those that are not

	drop    string // list of keys, name
	label   string // lists of labels and keys, name
	unlabel string // lists of labels and keys, name

	dropAll    string // name
	unlabelAll string // name
}

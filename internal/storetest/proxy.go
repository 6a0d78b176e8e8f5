package storetest

import "bytes"

// IsCommit reports whether a client sends a COMMIT in a chunk. A statement that names the isolation
// level READ COMMITTED is none.
func IsCommit(chunk []byte) bool {
	chunk = bytes.ToLower(chunk)
	return bytes.Contains(chunk, []byte("commit")) && !bytes.Contains(chunk, []byte("committed"))
}

//go:build unix && !linux

package testserver

// memoryBase returns a place for temporary folders in memory: none here.
func memoryBase() (dir string, ok bool) { return "", false }

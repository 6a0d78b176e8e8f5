package testserver

import "syscall"

// memoryBase returns a place for temporary folders in memory, if it has room.
// There, to make and remove the many files of a server takes a part of the
// time that it takes on a disk.
func memoryBase() (dir string, ok bool) {
	const dirShm, room = "/dev/shm", 8 << 30
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dirShm, &stat); err != nil {
		return dirShm, false
	}
	return dirShm, stat.Bavail*uint64(stat.Bsize) >= room
}

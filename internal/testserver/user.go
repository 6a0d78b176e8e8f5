package testserver

import (
	"errors"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// serverUser returns the account that servers run as: nil, which means the
// current one, or for root an unprivileged one, as the servers refuse to run
// as root.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"nobody", "daemon"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		// 32 bits, signed or not: some systems write nobody's id as -2.
		uid, err := strconv.ParseInt(account.Uid, 10, 64)
		if err != nil || uid == 0 {
			continue
		}
		gid, err := strconv.ParseInt(account.Gid, 10, 64)
		if err != nil {
			continue
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("running as root, but there is no account nobody or daemon to run a server as")
}

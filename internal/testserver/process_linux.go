package testserver

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

// setDeathSignal makes the kernel send sig to the program when the thread that
// starts it ends.
func setDeathSignal(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// commandLine returns the arguments of a running process, joined by spaces. It
// is empty when there is no such process.
func commandLine(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return string(bytes.ReplaceAll(raw, []byte{0}, []byte{' '}))
}

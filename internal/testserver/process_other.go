//go:build !linux

package testserver

import (
	"os/exec"
	"strconv"
	"syscall"
)

// setDeathSignal does nothing: only Linux has such a signal. A server whose
// test process was killed ends at the next Start.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}

// commandLine returns the arguments of a running process, joined by spaces. It
// is empty when there is no such process.
func commandLine(pid int) string {
	out, err := exec.Command("ps", "-ww", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

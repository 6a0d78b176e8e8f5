package testserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// errStillRunning reports that a process has outlived the signal to end.
var errStillRunning = errors.New("still running")

// process is a started program together with the processes it has started.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the program itself has ended
	gone   chan struct{} // closed when its descendants have ended too
}

// startProcess starts cmd. When this process ends before it, for whatever
// reason, the program gets the signal death on systems which can do that.
func startProcess(cmd *exec.Cmd, death syscall.Signal) (*process, error) {
	// All descendants inherit the write end, so that its end of file means
	// that none of them is left, whoever has become their parent.
	alive, inherited, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	cmd.ExtraFiles = []*os.File{inherited}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// A group of its own keeps the interrupt key of a terminal away from it.
	cmd.SysProcAttr.Setpgid = true
	setDeathSignal(cmd.SysProcAttr, death)

	p := &process{cmd: cmd, exited: make(chan struct{}), gone: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The death signal is sent when the thread that forked ends, not
		// the process. This goroutine therefore keeps its thread until the
		// program has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer alive.Close()

		err := cmd.Start()
		inherited.Close()
		started <- err
		if err != nil {
			return
		}
		// The outcome is kept in cmd.ProcessState; an error of Wait has
		// nothing to add to it.
		_ = cmd.Wait()
		close(p.exited)
		_, _ = alive.Read(make([]byte, 1))
		close(p.gone)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// state describes how the program has ended. It may be called when exited is
// closed.
func (p *process) state() string { return p.cmd.ProcessState.String() }

// succeeded reports whether the program has ended with exit status 0.
func (p *process) succeeded() bool {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.Success()
	default:
		return false
	}
}

// end sends sig to the program and waits until it and its descendants are
// gone. The error is errStillRunning when that takes longer than timeout.
func (p *process) end(sig syscall.Signal, timeout time.Duration) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal process %d: %w", p.cmd.Process.Pid, err)
	}
	select {
	case <-p.gone:
		return nil
	case <-time.After(timeout):
		return fmt.Errorf("process %d or a child of it, %v after %q: %w",
			p.cmd.Process.Pid, timeout, sig.String(), errStillRunning)
	}
}

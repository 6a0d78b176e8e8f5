package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// logCommand is what a person types to get a log that parseLog reads.
const logCommand = "git log --reverse --topo-order --parents --date=raw --raw --numstat -M"

// logArgs is logCommand, made independent of the user's configuration wherever that could change
// the form of the output. What only decides how git counts (the diff algorithm, the rename limit)
// is left alone, so that the counts are those that git itself shows.
var logArgs = []string{
	"-c", "log.showRoot=true", "-c", "diff.relative=false",
	"log", "--reverse", "--topo-order", "--parents", "--date=raw", "--raw", "--numstat", "-M",
	"--pretty=medium", "--encoding=UTF-8", "--use-mailmap", "--no-abbrev-commit", "--no-color",
	"--no-decorate", "--no-notes", "--no-show-signature",
}

// history is what one run reads.
type history struct {
	commits []*commit // parents before their children
	shallow bool      // its beginning is missing
}

// readGit reads the history of HEAD in the repository that dir is in; "" is the current folder.
func readGit(ctx context.Context, dir string, progress func(commits int)) (*history, error) {
	shallow, err := git(ctx, dir, "rev-parse", "--is-shallow-repository")
	if err != nil {
		return nil, err
	}
	h := &history{shallow: strings.TrimSpace(shallow) == "true"}
	// The hash is asked for first, so that a branch that grows meanwhile does not matter. Without
	// one the branch is still to be born.
	head, err := git(ctx, dir, "rev-parse", "--verify", "--quiet", "HEAD")
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return h, nil
	}
	if err != nil {
		return nil, err
	}
	args := append(slices.Clone(logArgs), strings.TrimSpace(head), "--")
	err = runGit(ctx, dir, args, func(out io.Reader) (err error) {
		h.commits, err = parseLog(out, progress)
		return err
	})
	return h, err
}

// git runs git and returns what it prints.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	var b strings.Builder
	err := runGit(ctx, dir, args, func(out io.Reader) error {
		_, err := io.Copy(&b, out)
		return err
	})
	return b.String(), err
}

// runGit runs git in a folder and has read take its output.
func runGit(ctx context.Context, dir string, args []string, read func(io.Reader) error) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = gitEnv(dir != "")
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return errors.New("git is not installed, or not in PATH")
		}
		return fmt.Errorf("run git: %w", err)
	}
	readErr := read(out)
	if readErr != nil {
		_ = out.Close() // git stops at the closed pipe
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case readErr != nil && (err == nil || !strings.Contains(stderr.String(), "fatal: ")):
		return fmt.Errorf("git log: %w", readErr)
	case err != nil:
		return &gitError{said: firstFatal(stderr.String()), err: err}
	}
	return nil
}

// gitError is a git that failed, and why.
type gitError struct {
	said string
	err  error
}

func (e *gitError) Error() string {
	if e.said == "" {
		return "git failed: " + e.err.Error()
	}
	return "git: " + e.said
}

func (e *gitError) Unwrap() error { return e.err }

// firstFatal returns the line in which git says why it gives up.
func firstFatal(stderr string) string {
	for line := range strings.Lines(stderr) {
		if said, ok := strings.CutPrefix(line, "fatal: "); ok {
			return strings.TrimSpace(said)
		}
	}
	first, _, _ := strings.Cut(strings.TrimSpace(stderr), "\n")
	return first
}

// gitEnv is the environment of git: messages in English and, for a folder that was asked for by
// name, nothing that points at another repository, as hooks have it.
func gitEnv(named bool) []string {
	env := append(os.Environ(), "LC_ALL=C", "LANGUAGE=")
	if !named {
		return env
	}
	return slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE":
			return true
		}
		return false
	})
}

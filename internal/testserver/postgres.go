package testserver

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// postgres runs PostgreSQL. Its one account is the superuser postgres, which
// needs no password.
type postgres struct {
	bin string // the folder with the binaries
}

func (p *postgres) find() bool {
	for _, dir := range postgresFolders() {
		_, initErr := exec.LookPath(filepath.Join(dir, "initdb"))
		_, serverErr := exec.LookPath(filepath.Join(dir, "postgres"))
		if initErr == nil && serverErr == nil {
			p.bin = dir
			return true
		}
	}
	return false
}

func (p *postgres) packages() []string { return []string{"postgresql"} }

func (p *postgres) variable() string { return "EVENTSTORE_TEST_POSTGRES" }

func (p *postgres) initialise(f *folder) []string {
	return []string{
		filepath.Join(p.bin, "initdb"),
		"--pgdata=" + f.data(),
		"--username=postgres",
		"--auth=trust",
		"--encoding=UTF8",
		"--no-locale",
		"--no-sync",
	}
}

func (p *postgres) serve(f *folder, port int, opts Options) []string {
	settings := []string{
		"listen_addresses=" + loopback,
		"unix_socket_directories=",
		"max_connections=200",
		"timezone=UTC",
	}
	if opts.Durable {
		settings = append(settings, "fsync=on", "full_page_writes=on", "shared_buffers=512MB")
	} else {
		settings = append(settings, "fsync=off", "full_page_writes=off")
	}
	args := []string{filepath.Join(p.bin, "postgres"), "-D", f.data(), "-p", strconv.Itoa(port)}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	return args
}

// release removes the shared memory of a killed server, which the system would
// keep. A server finds and removes what an earlier one has left on the same
// data, also the stand-alone one which ends at the end of its empty input.
func (p *postgres) release(f *folder) []string {
	return []string{filepath.Join(p.bin, "postgres"), "--single", "-D", f.data(), "postgres"}
}

func (p *postgres) dsn(addr, database string) string {
	dsn := url.URL{
		Scheme:   "postgres",
		User:     url.User("postgres"),
		Host:     addr,
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return dsn.String()
}

func (p *postgres) dataDir(ctx context.Context, addr string) (dir string, err error) {
	conn, err := pgx.Connect(ctx, p.dsn(addr, "postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, "SHOW data_directory").Scan(&dir); err != nil {
		return "", fmt.Errorf("ask for the data directory: %w", err)
	}
	return dir, nil
}

func (p *postgres) pidFile(f *folder) string { return filepath.Join(f.data(), "postmaster.pid") }

// SIGINT is the "fast" shutdown and SIGQUIT the "immediate" one. With SIGKILL
// the server could not end its children and free its shared memory.
func (p *postgres) stopSignal() syscall.Signal  { return syscall.SIGINT }
func (p *postgres) deathSignal() syscall.Signal { return syscall.SIGQUIT }

// postgresFolders returns the folders that may hold the binaries: the one in
// PATH, those of Debian with the newest version first, and the one that
// pg_config names.
func postgresFolders() []string {
	var dirs []string
	if path, ok := executable("postgres"); ok {
		dirs = append(dirs, filepath.Dir(path))
	}
	// The pattern is well-formed, so there is no error to look at.
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	version := func(dir string) float64 {
		v, err := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64)
		if err != nil {
			return 0
		}
		return v
	}
	slices.SortFunc(debian, func(a, b string) int { return cmp.Compare(version(b), version(a)) })
	dirs = append(dirs, debian...)
	if path, ok := executable("pg_config"); ok {
		if out, err := exec.Command(path, "--bindir").Output(); err == nil {
			dirs = append(dirs, strings.TrimSpace(string(out)))
		}
	}
	return dirs
}

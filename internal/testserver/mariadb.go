package testserver

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/go-sql-driver/mysql"
)

// mariadbLogSize keeps the folder small; the server writes the file in full.
const mariadbLogSize = "64M"

// mariadb runs MariaDB. Its one account is root, which needs no password.
type mariadb struct {
	server  string // path of mariadbd
	install string // path of mariadb-install-db
}

func (m *mariadb) find() bool {
	folders := []string{"/usr/sbin", "/usr/bin", "/usr/libexec", "/usr/local/sbin", "/usr/local/bin"}
	server, ok := executable("mariadbd", folders...)
	if !ok {
		// The name of older versions, which MySQL has as well.
		if server, ok = executable("mysqld", folders...); !ok || !isMariaDB(server) {
			return false
		}
	}
	install, ok := executable("mariadb-install-db", folders...)
	if !ok {
		return false
	}
	// The script needs a program that Debian keeps in the client's package.
	if _, ok := executable("my_print_defaults", folders...); !ok {
		return false
	}
	m.server, m.install = server, install
	return true
}

func (m *mariadb) packages() []string { return []string{"mariadb-server-core", "mariadb-client-core"} }

func (m *mariadb) variable() string { return "EVENTSTORE_TEST_MYSQL" }

func (m *mariadb) initialise(f *folder) []string {
	return []string{
		m.install,
		"--no-defaults", // has to come first
		"--auth-root-authentication-method=normal",
		"--skip-test-db",
		"--force", // no look-up of the machine's name, which may have no answer
		"--datadir=" + f.data(),
		// The rest goes to the server which fills the folder. Nothing is
		// lost when it does not wait for the disk: if the machine fails now,
		// the folder is of no use anyway.
		"--tmpdir=" + f.work(),
		"--innodb-log-file-size=" + mariadbLogSize,
		"--innodb-flush-log-at-trx-commit=0",
		"--innodb-flush-method=nosync",
	}
}

func (m *mariadb) serve(f *folder, port int, opts Options) []string {
	args := []string{
		m.server,
		"--no-defaults", // has to come first
		"--datadir=" + f.data(),
		"--tmpdir=" + f.work(),
		"--pid-file=" + m.pidFile(f),
		"--socket=" + filepath.Join(f.work(), "sock"),
		"--port=" + strconv.Itoa(port),
		"--bind-address=" + loopback,
		"--skip-networking=OFF",
		"--skip-name-resolve",
		"--max-connections=300",
		"--character-set-server=utf8mb4",
		"--innodb-buffer-pool-dump-at-shutdown=OFF",
		"--innodb-buffer-pool-load-at-startup=OFF",
	}
	if opts.Durable {
		return append(args,
			"--innodb-flush-log-at-trx-commit=1",
			"--innodb-buffer-pool-size=512M",
		)
	}
	return append(args,
		// The log is written at each commit and left to the system to bring
		// to the disk: a killed server has lost nothing.
		"--innodb-flush-log-at-trx-commit=2",
		"--innodb-buffer-pool-size=64M",
		"--innodb-log-file-size="+mariadbLogSize,
	)
}

// release has nothing to do: a process is all that a server has outside its
// folder.
func (m *mariadb) release(*folder) []string { return nil }

func (m *mariadb) dsn(addr, database string) string {
	return "root@tcp(" + addr + ")/" + url.PathEscape(database)
}

func (m *mariadb) dataDir(ctx context.Context, addr string) (dir string, err error) {
	config, err := mysql.ParseDSN(m.dsn(addr, ""))
	if err != nil {
		return "", err
	}
	// A server that is not ready yet is no news.
	config.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return "", err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	if err := db.QueryRowContext(ctx, "SELECT @@datadir").Scan(&dir); err != nil {
		return "", fmt.Errorf("ask for the data directory: %w", err)
	}
	return strings.TrimSuffix(dir, "/"), nil
}

func (m *mariadb) pidFile(f *folder) string { return filepath.Join(f.work(), "pid") }

func (m *mariadb) stopSignal() syscall.Signal  { return syscall.SIGTERM }
func (m *mariadb) deathSignal() syscall.Signal { return syscall.SIGKILL }

// isMariaDB reports whether a mysqld is MariaDB's.
func isMariaDB(path string) bool {
	out, err := exec.Command(path, "--no-defaults", "--version").Output()
	return err == nil && bytes.Contains(out, []byte("MariaDB"))
}

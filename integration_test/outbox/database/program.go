package database

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// program is an installed database server.
type program struct {
	name    string
	account string // that it runs as when the tests run as root
	driver  string
	// find returns the folder of its programs.
	find func() (string, error)
	// initialise and serve are the commands that make an empty data folder and use it.
	initialise, serve func(bin, folder string, port int) []string
	dsn               func(port int, database string) string
	image             image
}

// ErrMissing says that the server is not installed.
var ErrMissing = errors.New("not installed; run scripts/install-databases")

func postgres() *program {
	return &program{
		name: "postgres", account: "postgres", driver: "pgx",
		find: func() (string, error) {
			found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
			if err != nil || len(found) == 0 {
				return "", fmt.Errorf("PostgreSQL: %w", ErrMissing)
			}
			return filepath.Dir(found[len(found)-1]), nil
		},
		initialise: func(bin, folder string, _ int) []string {
			return []string{filepath.Join(bin, "initdb"), "-D", folder + "/data", "-U", "harebus", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"}
		},
		serve: func(bin, folder string, port int) []string {
			return []string{filepath.Join(bin, "postgres"), "-D", folder + "/data", "-h", "127.0.0.1", "-p", strconv.Itoa(port), "-k", "", "-c", "fsync=off"}
		},
		dsn: func(port int, database string) string {
			if database == "" {
				database = "postgres"
			}
			return fmt.Sprintf("postgres://harebus@127.0.0.1:%d/%s?sslmode=disable", port, database)
		},
		image: image{
			variable: "HAREBUS_POSTGRES_IMAGE", name: "postgres:17", port: "5432/tcp", command: []string{"postgres", "-c", "fsync=off"},
			environment: map[string]string{"POSTGRES_USER": "harebus", "POSTGRES_DB": "postgres", "POSTGRES_HOST_AUTH_METHOD": "trust"},
		},
	}
}

func mariadb() *program {
	return &program{
		name: "mariadb", account: "mysql", driver: "mysql",
		find: func() (string, error) {
			if _, err := os.Stat("/usr/sbin/mariadbd"); err != nil {
				return "", fmt.Errorf("MariaDB: %w", ErrMissing)
			}
			return "/usr/sbin", nil
		},
		initialise: func(_, folder string, _ int) []string {
			return []string{"/usr/bin/mariadb-install-db", "--no-defaults", "--datadir=" + folder + "/data", "--auth-root-authentication-method=normal", "--skip-test-db"}
		},
		serve: func(bin, folder string, port int) []string {
			return []string{
				filepath.Join(bin, "mariadbd"), "--no-defaults", "--datadir=" + folder + "/data", "--bind-address=127.0.0.1", "--port=" + strconv.Itoa(port),
				"--socket=" + folder + "/socket", "--pid-file=" + folder + "/pid", "--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M",
			}
		},
		dsn: func(port int, database string) string {
			return fmt.Sprintf("root@tcp(127.0.0.1:%d)/%s", port, database)
		},
		image: image{
			variable: "HAREBUS_MARIADB_IMAGE", name: "mariadb:11", port: "3306/tcp", command: []string{"mariadbd", "--innodb-flush-log-at-trx-commit=2", "--skip-name-resolve"},
			environment: map[string]string{"MARIADB_ALLOW_EMPTY_ROOT_PASSWORD": "1"},
		},
	}
}

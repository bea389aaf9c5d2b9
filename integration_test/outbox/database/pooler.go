package database

import (
	"fmt"
	"os"
	"testing"
)

// poolSize is how many sessions of the server a pooler uses.
const poolSize = 3

// Pooled is the same database of PostgreSQL through a pooler, pgbouncer in transaction mode: each
// transaction of a connection may have another session of the server.
func (d *Database) Pooled(t testing.TB) *Database {
	t.Helper()
	s, err := start(pgbouncer(d.server.port))
	SkipOrFail(t, err)
	t.Cleanup(s.stop)
	pooled := *d
	pooled.server, pooled.DSN = s, s.program.dsn(s.port, d.name)
	return &pooled
}

// pgbouncer is a pooler in front of a server of PostgreSQL.
func pgbouncer(server int) *program {
	const path = "/usr/sbin/pgbouncer"
	p := postgres()
	p.name = "pgbouncer"
	p.find = func() (string, error) {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("pgbouncer: %w", ErrMissing)
		}
		return path, nil
	}
	p.initialise = func(_, folder string, port int) []string {
		settings := fmt.Sprintf("[databases]\n* = host=127.0.0.1 port=%d user=harebus\n"+
			"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\nauth_type = any\n"+
			"pool_mode = transaction\ndefault_pool_size = %d\n", server, port, poolSize)
		return []string{"/bin/sh", "-c", `printf %s "$1" >"$2"`, "sh", settings, folder + "/pgbouncer.ini"}
	}
	p.serve = func(bin, folder string, _ int) []string { return []string{bin, folder + "/pgbouncer.ini"} }
	direct := p.dsn
	p.dsn = func(port int, database string) string {
		// A prepared statement belongs to a session.
		return direct(port, database) + "&default_query_exec_mode=exec"
	}
	return p
}

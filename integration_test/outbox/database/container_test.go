package database_test

import (
	"os"
	"testing"

	"github.com/harebus/harebus/integration_test/outbox/database"
)

// TestContainer: a server in a container keeps what is committed when it is killed. The test needs a Docker engine and an image,
// which even a machine that requires databases may not have: it runs where the variables name images.
func TestContainer(t *testing.T) {
	for kind, variable := range map[string]string{"postgres": "HAREBUS_POSTGRES_IMAGE", "mariadb": "HAREBUS_MARIADB_IMAGE"} {
		t.Run(kind, func(t *testing.T) {
			if os.Getenv(variable) == "" {
				t.Skip(variable + " names no image; with a Docker engine running, scripts/database-image makes one")
			}
			t.Setenv("HAREBUS_DATABASES", "container")
			data := database.Own(t, kind)
			db := data.Open(t)
			if _, err := db.ExecContext(t.Context(), "create table t (n int)"); err != nil {
				t.Fatal(err)
			}
			before := data.PID()
			for n := range 3 {
				if _, err := db.ExecContext(t.Context(), "insert into t values (1)"); err != nil {
					t.Fatal(err)
				}
				data.Kill()
				if err := db.PingContext(t.Context()); err == nil {
					t.Error("it answers after it was killed")
				}
				data.Restart(t)
				var rows int
				if err := db.QueryRowContext(t.Context(), "select count(*) from t").Scan(&rows); err != nil || rows != n+1 {
					t.Fatalf("%d rows, %v", rows, err)
				}
			}
			if before == 0 || data.PID() == before {
				t.Errorf("the process was %d, and is %d", before, data.PID())
			}
		})
	}
}

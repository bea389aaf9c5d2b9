package outbox_test

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/harebus/harebus/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestIDs: ids are positive and rise, also in many years.
func TestIDs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const year = 366 * 24 * time.Hour
		time.Sleep(28 * year) // a bubble begins in 2000
		last := int64(0)
		for range 32 {
			time.Sleep(2 * year)
			ob, err := outbox.New(outbox.Config{DB: &sql.DB{}, Dialect: outbox.SQLite}) // of a new process
			if err != nil {
				t.Fatal(err)
			}
			id := ob.NextID(1)
			if id <= last {
				t.Fatalf("%v: id %d after %d", time.Now(), id, last)
			}
			last = id
		}
	})
}

type coded int

func (c coded) Error() string { return "code " + fmt.Sprint(int(c)) }
func (c coded) Code() int     { return int(c) }

// TestForeignCode: an error of a handler that has a code is no conflict of transactions.
func TestForeignCode(t *testing.T) {
	t.Parallel()
	for d := outbox.Postgres; d <= outbox.SQLite; d++ {
		for code := range coded(10) {
			if err := errors.Join(code); d.Conflict(err) {
				t.Errorf("%v: %v is a conflict", d, err)
			}
		}
	}
}

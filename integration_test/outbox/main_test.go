package outbox_test

import (
	"os"
	"testing"

	"github.com/harebus/harebus/integration_test/outbox/database"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimEnv) != "" {
		victim()
		return
	}
	code := m.Run()
	database.Stop()
	os.Exit(code)
}

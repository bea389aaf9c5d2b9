package celery_test

import (
	"os"
	"testing"

	"github.com/harebus/harebus/internal/dialecttest"
)

// TestMain: what Celery writes is in a table; celery-bomb is what an attacker does.
func TestMain(m *testing.M) { os.Exit(dialecttest.Main(m, "celery-bomb")) }

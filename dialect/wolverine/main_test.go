package wolverine_test

import (
	"os"
	"testing"

	"github.com/harebus/harebus/internal/dialecttest"
)

// TestMain: what the peer writes is in a table.
func TestMain(m *testing.M) { os.Exit(dialecttest.Main(m)) }

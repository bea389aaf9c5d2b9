package masstransit_test

import (
	"os"
	"testing"

	"github.com/harebus/harebus/internal/dialecttest"
)

// TestMain: what MassTransit writes is in a table; masstransit-topology is no message, and TestExchanges has its names.
func TestMain(m *testing.M) { os.Exit(dialecttest.Main(m, "masstransit-topology")) }

package stream_test

import (
	"os"
	"testing"

	"github.com/harebus/harebus/integration_test/rabbit"
)

func TestMain(m *testing.M) {
	if os.Getenv(readerEnv) != "" {
		os.Exit(read())
	}
	if os.Getenv(onceEnv) != "" {
		os.Exit(once())
	}
	os.Exit(rabbit.Main(m))
}

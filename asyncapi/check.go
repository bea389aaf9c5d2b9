package asyncapi

import (
	"bytes"
	"os"

	"github.com/harebus/harebus"
)

// T is what Check needs of a *testing.T.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Update is the environment variable that has [Check] write the file.
const Update = "HAREBUS_UPDATE"

// Check fails a test when the file with the document of a setup is stale: a message has changed, and nobody has looked at
// what that means for others. With the environment variable HAREBUS_UPDATE=1 it writes the file. The difference between the
// file and the one before is for harebus contract diff.
func Check(t T, setup *harebus.Setup, info Info, file string) {
	t.Helper()
	want, err := Export(setup, info)
	if err != nil {
		t.Fatalf("%v", err)
		return
	}
	if os.Getenv(Update) == "1" {
		if err := os.WriteFile(file, want, 0o644); err != nil { //nolint:gosec // a file in version control
			t.Fatalf("asyncapi: check: %v", err)
		}
		return
	}
	switch got, err := os.ReadFile(file); {
	case err != nil:
		t.Fatalf("asyncapi: check: %v; %s=1 go test makes the file", err, Update)
	case !bytes.Equal(bytes.ReplaceAll(got, []byte("\r\n"), []byte("\n")), want):
		t.Fatalf("asyncapi: check: %s is not what the service takes and gives; %s=1 go test writes it anew: then look at the difference, for example with harebus contract diff", file, Update)
	}
}

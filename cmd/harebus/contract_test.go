package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// contractFile writes a document of a service that receives orders with these fields, all of them required.
func contractFile(t *testing.T, queue string, fields ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "contract.json")
	if err := os.WriteFile(name, []byte(contractText(queue, fields...)), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func contractText(queue string, fields ...string) string {
	return `{"asyncapi": "3.1.0", "channels": {"q": {"address": "` + queue + `", "bindings": {"amqp": {"is": "queue"}},
		"messages": {"PlaceOrder": {"payload": {"type": "object", "required": ["` + strings.Join(fields, `", "`) + `"]}}}}},
		"operations": {"x": {"action": "receive", "channel": {"$ref": "#/channels/q"}}}}`
}

// TestContractDiff: the exit code says whether a change breaks others, and the sign before a line which one it is.
func TestContractDiff(t *testing.T) {
	t.Parallel()
	one, two := contractFile(t, "orders", "id"), contractFile(t, "orders", "id", "total")
	r := execute(t, "", "contract", "diff", one, two)
	r.check(t, exitBreaks, "")
	if want := "! receive \"PlaceOrder\", queue \"orders\" /payload/total: required no → yes\n= 1 changes, 1 of them break others\n"; r.out != want {
		t.Errorf("printed %q, want %q", r.out, want)
	}
	r = execute(t, "", "contract", "diff", two, one)
	r.check(t, exitOK, "")
	if want := "  receive \"PlaceOrder\", queue \"orders\" /payload/total: required yes → no\n= 1 changes, 0 of them break others\n"; r.out != want {
		t.Errorf("printed %q, want %q", r.out, want)
	}
	if r = execute(t, "", "contract", "diff", "-breaking", two, one); r.out != "= 1 changes, 0 of them break others\n" {
		t.Errorf("-breaking printed %q", r.out)
	}
	execute(t, "", "contract", "diff", one, one).check(t, exitOK, "")
	r = execute(t, contractText("sales", "id"), "contract", "diff", "-json", one, "-")
	r.check(t, exitBreaks, "")
	var printed struct {
		Breaking int
		Changes  []struct {
			Breaking               bool
			Operation, Field, Text string
		}
	}
	if err := json.Unmarshal([]byte(r.out), &printed); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	if printed.Breaking != 1 || len(printed.Changes) != 2 || printed.Changes[0].Text != `gone; the message is now in queue "sales"` || printed.Changes[1].Text != "added" {
		t.Errorf("%+v", printed)
	}
}

// TestContractShow lists the operations.
func TestContractShow(t *testing.T) {
	t.Parallel()
	r := execute(t, "", "contract", "show", contractFile(t, "orders", "id"))
	r.check(t, exitOK, "")
	if want := "receive \"PlaceOrder\", queue \"orders\"\n"; r.out != want {
		t.Errorf("printed %q, want %q", r.out, want)
	}
}

// TestContractBadInput: what is no document is an error that says why, and is not taken for one without changes.
func TestContractBadInput(t *testing.T) {
	t.Parallel()
	good := contractFile(t, "orders", "id")
	missing := filepath.Join(t.TempDir(), "none.json")
	for _, row := range []struct {
		stdin string
		args  []string
		code  int
		want  string
	}{
		{"asyncapi: 3.0.0\n", []string{"diff", good, "-"}, exitFailed, "harebus: contract diff: -: contract: read document: it is YAML, and only JSON is read: convert it first, with yq -o=json FILE"},
		{"{", []string{"diff", good, "-"}, exitFailed, "harebus: contract diff: -: contract: read document: it is not JSON"},
		{`{"openapi": "3.0.0"}`, []string{"diff", "-", good}, exitFailed, "it is no AsyncAPI document"},
		{`{"asyncapi": "2.6.0"}`, []string{"show", "-"}, exitFailed, `it is AsyncAPI "2.6.0", and only version 3 is read`},
		{strings.Replace(contractText("orders"), `"type": "object"`, `"$ref": "#/nowhere"`, 1), []string{"diff", good, "-"}, exitFailed, `"#/nowhere" leads nowhere`},
		{"", []string{"diff", good, missing}, exitFailed, "none.json: no such file"},
		{"", []string{"diff", good}, exitUsage, "diff needs two files, the older one first, got 1 arguments"},
		{"", []string{"diff", "-", "-"}, exitUsage, "only one of the files can be -"},
		{"", []string{"show"}, exitUsage, "show needs one file"},
		{"", []string{"merge"}, exitUsage, `want show or diff, got "merge"`},
		{"", nil, exitUsage, `want show or diff, got ""`},
		{"", []string{"diff", good, good, "-json"}, exitUsage, `"-json" has to stand before the others`},
	} {
		execute(t, row.stdin, append([]string{"contract"}, row.args...)...).check(t, row.code, row.want)
	}
}

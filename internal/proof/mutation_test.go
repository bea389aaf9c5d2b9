package proof_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var mutations = flag.Bool("mutations", false, "check that the simulation notices when the library is broken on purpose")

// mutants are ways to get it wrong, most of them seen in the wild. Each replaces
// one piece of the library's source for one build; the simulation must then
// fail, naming the promise.
var mutants = []struct {
	name, file, old, new string
	invariant            string
}{
	{
		name: "acknowledge before handling", file: "consumer.go",
		old:       "\tsettled := c.handleDelivery(f, d)\n\tc.busy.Add(-1)\n",
		new:       "\tf.acks.done(d.DeliveryTag)\n\tif c.handleDelivery(f, d); true {\n\t\tc.busy.Add(-1)\n\t\treturn\n\t}\n\tsettled := true\n",
		invariant: "NOLOSS",
	},
	{
		name: "ignore returns", file: "confirm.go",
		old: "if c.wasReturned(f.key) {", new: "if c.wasReturned(f.key) && false {",
		invariant: "NOLOSS",
	},
	{
		name: "do not wait for confirms", file: "confirm.go",
		old:       "\tselect {\n\tcase <-f.confirm.Done():\n\t\treturn c.resolve(f)\n\tdefault:\n\t}\n",
		new:       "\tif c.session.spawn(func() { <-f.confirm.Done(); c.resolve(f) }) {\n\t\treturn result{outcome: Confirmed}\n\t}\n",
		invariant: "NOLOSS",
	},
	{
		name: "take an unknown outcome for a failure", file: "confirm.go",
		old: "return result{outcome: Unknown, err: err, raised:", new: "return result{outcome: NotSent, final: true, err: err, raised:",
		invariant: "HONESTFAIL",
	},
	{
		name: "send again under a new id", file: "publisher.go",
		old: "\tvar together []*outgoing\n", new: "\tfor _, i := range left {\n\t\touts[i].msg.MessageId = NewMessageID()\n\t\touts[i].msg.Headers[p.setup.dialect.names.messageID] = outs[i].msg.MessageId\n\t}\n\tvar together []*outgoing\n",
		invariant: "NOPHANTOM",
	},
	{
		name: "acknowledge on the next connection", file: "consumer.go",
		old: "\tf.acks.done(d.DeliveryTag)\n", new: "\tif next, _, _ := c.current(); next != nil {\n\t\tf = next\n\t}\n\tf.acks.done(d.DeliveryTag)\n",
		invariant: "NOLOSS",
	},
	{
		name: "forget the number of failures", file: "resend.go",
		old: "field.SmallestInt(r.failures + 1)", new: "field.SmallestInt(1)",
		invariant: "RETRY",
	},
	{
		name: "copy the broker's headers", file: "resend.go",
		old: "return brokerHeader(key) })", new: "return brokerHeader(key) && false })",
		invariant: "NOLOSS",
	},
	{
		name: "keep a channel that nacks", file: "confirm.go",
		old: "\tc.retire()\n\treturn result{outcome: Nacked}", new: "\treturn result{outcome: Nacked}",
		invariant: "LIVENESS",
	},
	{
		name: "do not cut error details", file: "resend.go",
		old: "const maxErrorDetails = 8 << 10", new: "const maxErrorDetails = 8 << 20",
		invariant: "ACCOUNT",
	},
	{
		name: "retry without a pause", file: "receive.go",
		old: "out.due = time.Now().Add(after)", new: "out.due = time.Now().Add(after / 2)",
		invariant: "RETRY",
	},
	{
		name: "deliver deferred messages early", file: "bus.go",
		old: "out.due = time.Now().Add(delay)", new: "out.due = time.Now().Add(delay / 2)",
		invariant: "TIMER",
	},
	{
		name: "publish what a transaction discards", file: "transaction.go",
		old: "\touts := s.outs\n\ts.outs = nil\n", new: "\touts := s.outs\n\ts.outs = nil\n\tif s.parent != nil {\n\t\ts.parent.outs = append(s.parent.outs, outs...)\n\t\treturn nil, nil\n\t}\n",
		invariant: "TXN",
	},
	{
		name: "commit although the handler failed", file: "receive.go",
		old: "\t\t_, _ = scope.end()\n\t\treturn err\n", new: "\t\tif outs, _ := scope.end(); len(outs) > 0 {\n\t\t\teng, _ := s.engine()\n\t\t\t_ = eng.commit(ctx, outs)\n\t\t}\n\t\treturn err\n",
		invariant: "TXN",
	},
}

// TestMutants proves the proof. It builds the simulation once for each mutant,
// so it takes minutes: go test ./internal/proof -run Mutants -mutations.
func TestMutants(t *testing.T) {
	if !*mutations {
		t.Log("not asked for; run with -mutations")
		return
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			overlay := mutate(t, root, m.file, m.old, m.new)
			out, err := exec.CommandContext(t.Context(), "go", "test", "-overlay", overlay, //nolint:gosec // arguments of our own
				"github.com/harebus/harebus/internal/proof", "-run", "Simulation", "-schedules", "400").CombinedOutput()
			if err == nil {
				t.Fatalf("nothing was noticed")
			}
			if !strings.Contains(string(out), m.invariant+" ") && !strings.Contains(string(out), m.invariant+":") {
				t.Fatalf("noticed, but not as a violation of %s:\n%s", m.invariant, head(string(out)))
			}
		})
	}
}

// mutate writes a copy of a source file with one change and an overlay that puts
// it in the place of the original.
func mutate(t *testing.T, root, file, from, to string) string {
	t.Helper()
	path := filepath.Join(root, file)
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(source), from) != 1 {
		t.Fatalf("%s has changed: the text to mutate occurs %d times", file, strings.Count(string(source), from))
	}
	dir := t.TempDir()
	mutant := filepath.Join(dir, filepath.Base(file))
	if err := os.WriteFile(mutant, []byte(strings.Replace(string(source), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return list
}

func head(s string) string { return s[:min(len(s), 3000)] }

package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/harebus/harebus/brokertest"
)

// soak runs the command against a broker in this process over TCP.
func soak(t *testing.T, broker *brokertest.Broker, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	address, err := broker.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	args = append([]string{"soak", "-url", "amqp://guest:guest@" + address.String() + "/", "-duration", "1500ms", "-rate", "100", "-json"}, args...)
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

type soakVerdict struct {
	Sent        int `json:"sent"`
	Confirmed   int `json:"confirmed"`
	Handled     int `json:"handled"`
	Parked      int `json:"parked"`
	Lost        int `json:"lost"`
	Unexplained int `json:"unexplained_duplicates"`
}

func TestSoakAccountsForEveryMessage(t *testing.T) {
	t.Parallel()
	broker := brokertest.New()
	defer broker.Close()
	code, stdout, stderr := soak(t, broker)
	var v soakVerdict
	if err := json.Unmarshal([]byte(stdout), &v); err != nil {
		t.Fatalf("verdict %q: %v", stdout, err)
	}
	if code != exitOK || v.Sent < 50 || v.Confirmed != v.Handled+v.Parked || v.Lost != 0 || v.Unexplained != 0 {
		t.Errorf("exit %d, verdict %+v\n%s", code, v, stderr)
	}
	if !strings.Contains(stderr, "confirmed") {
		t.Errorf("no progress on stderr: %q", stderr)
	}
	if queues := broker.Queues(); len(queues) > 0 {
		t.Errorf("left behind: %v", queues)
	}
}

func TestSoakReportsALoss(t *testing.T) {
	t.Parallel()
	broker := brokertest.New()
	defer broker.Close()
	// A broker that confirms a message and forgets it.
	injected := broker.Inject(brokertest.Fault{On: "basic.deliver", From: brokertest.FromBroker, Do: brokertest.Drop, Nth: 10})
	go func() {
		// The delivery that was dropped is requeued when its consumer goes, so
		// its queue has to be emptied behind the service's back.
		if injected.WaitFired(t.Context(), 1) == nil {
			for _, q := range broker.Queues() {
				if strings.HasPrefix(q.Name, "harebus.soak.") && !strings.HasSuffix(q.Name, ".error") {
					_ = broker.DeleteQueue(q.Name)
				}
			}
		}
	}()
	code, stdout, stderr := soak(t, broker)
	if code != exitFailed || !strings.Contains(stderr, "NOLOSS") {
		t.Errorf("exit %d, want %d and NOLOSS\n%s\n%s", code, exitFailed, stdout, stderr)
	}
}

// TestSoakOutlastsCuts: connections that are cut while the command looks, reads what is left
// or cleans up do not end it.
func TestSoakOutlastsCuts(t *testing.T) {
	t.Parallel()
	broker := brokertest.New()
	defer broker.Close()
	bySoak := func(f brokertest.Frame) bool { return f.Connection == "harebus soak" }
	cuts := map[string]*brokertest.Injection{}
	for _, method := range []string{"exchange.declare", "basic.get", "queue.delete"} {
		cuts[method] = broker.Inject(brokertest.Fault{On: method, Do: brokertest.CutBefore, Match: bySoak})
	}
	code, stdout, stderr := soak(t, broker)
	if code != exitOK || !strings.Contains(stdout, `"lost":0`) {
		t.Errorf("exit %d\n%s\n%s", code, stdout, stderr)
	}
	for method, cut := range cuts {
		if cut.Fired() != 1 {
			t.Errorf("no connection was cut at %s", method)
		}
	}
	if queues := broker.Queues(); len(queues) > 0 {
		t.Errorf("left behind: %v", queues)
	}
}

package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/errorqueue"
	"github.com/harebus/harebus/internal/messageid"
)

var operatorKills = flag.Int("kills", 1, "how often each action on an error queue is killed")

// asOperator makes the test binary work with an error queue, until it is done or killed.
const asOperator = "HAREBUS_TEST_OPERATOR"

// operate carries out what the environment says.
func operate() error {
	ctx := context.Background()
	q, err := errorqueue.Open(ctx, errorqueue.Config{
		Connect: harebus.ConnectConfig{URLs: []string{os.Getenv("AMQP_URL")}}, Name: os.Getenv("ERROR_QUEUE"), NoAudit: true,
	})
	if err != nil {
		return err
	}
	file, err := os.OpenFile(os.Getenv("ARCHIVE"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	o := errorqueue.Options{Rate: -1, Journal: os.Getenv("JOURNAL")}
	action := os.Getenv(asOperator)
	if action == "import" {
		fmt.Fprintln(os.Stdout, "begin")
		_, _, err = q.Import(ctx, file, o)
		return err
	}
	found, err := q.Look(ctx, errorqueue.Filter{})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "begin")
	switch action {
	case "retry":
		_, err = q.Retry(ctx, found.Messages, o)
	case "discard":
		_, err = q.Discard(ctx, found.Messages, file, o)
	case "move":
		_, err = q.Move(ctx, found.Messages, os.Getenv("TARGET"), o)
	case "edit":
		for _, m := range found.Messages {
			if _, err = q.Edit(ctx, m, []byte(edited), o); err != nil {
				break
			}
		}
	default:
		err = fmt.Errorf("no action %q", action)
	}
	return err
}

// edited is the body that an edit writes.
const edited = `"edited"`

// killing is a test that kills operators.
type killing struct {
	*place
	b                                     *broker
	failed, kept, orders, archive, folder string
	names                                 map[string]string // ids of parkings by ids of messages
	named                                 map[string]bool   // those that a journal has named after a kill
	kills                                 int
}

// parked puts n messages into the error queue.
func (k *killing) parked(prefix string, n int) {
	k.Helper()
	var parked []amqp.Publishing
	for i := range n {
		id := fmt.Sprint(prefix, i)
		k.names[id] = harebus.NewMessageID()
		parked = append(parked, amqp.Publishing{MessageId: id, DeliveryMode: amqp.Persistent, Body: make([]byte, 300), Headers: amqp.Table{
			"PikaBus.SourceQueue": k.orders, "PikaBus.ErrorDetails": "no", "PikaBus.ErrorId": k.names[id],
		}})
	}
	k.b.publishAll(k.failed, parked)
}

// run runs an operator and kills it after it has worked for a moment. It says whether the operator was
// done before.
func (k *killing) run(action, journal string, kill bool) (done bool) {
	k.Helper()
	from, to, act := k.failed, k.kept, action
	if action == "restore" { // what was moved into another queue comes back
		from, to, act = to, from, "move"
	}
	cmd := exec.CommandContext(k.within(2*patience), os.Args[0])
	cmd.Env = append(os.Environ(), asOperator+"="+act, "AMQP_URL="+k.url, "ERROR_QUEUE="+from, "TARGET="+to, "ARCHIVE="+k.archive, "JOURNAL="+journal)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	k.try(err)
	k.try(cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil && !kill {
		k.Fatalf("%s has not begun: %q, %v", action, line, err)
	}
	if kill {
		late := time.NewTimer(rand.N(150 * time.Millisecond))
		<-late.C
		_ = cmd.Process.Kill() // it may have ended
	}
	err = cmd.Wait()
	if err != nil && !kill {
		k.Fatalf("%s: %v", action, err)
	}
	if err != nil {
		k.kills++
		k.unclear(journal)
	}
	return err == nil
}

// unclear notes the messages that a journal names.
func (k *killing) unclear(journal string) {
	k.Helper()
	ids, err := errorqueue.Unclear(journal)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		k.Fatal(err)
	}
	for _, id := range ids {
		k.named[id] = true
	}
}

// killed kills an action up to so many times, and lets it end then. The broker may need a moment to take back what a killed one
// held.
func (k *killing) killed(action string, times int) {
	k.Helper()
	journal, from := filepath.Join(k.folder, fmt.Sprint(action, k.kills)), k.failed
	if action == "restore" {
		from = k.kept
	}
	for n := 0; n < times && !k.run(action, journal, true); n++ {
	}
	k.eventually(patience, func() error {
		k.run(action, journal, false)
		if q, err := k.b.look(from); err != nil || q.Messages == 0 || action == "import" {
			return err
		}
		return fmt.Errorf("%s: messages were still held", action)
	})
}

// count is how often each message is in a queue. It takes them out if asked to.
func (k *killing) count(queue string) map[string]int {
	k.Helper()
	counts := map[string]int{}
	k.b.must(func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil || q.Messages == 0 {
			return err
		}
		deliveries, err := ch.Consume(queue, "", true, false, false, false, nil)
		if err != nil {
			return err
		}
		for range q.Messages {
			counts[(<-deliveries).MessageId]++
		}
		return nil
	})
	return counts
}

// TestOperatorKilled kills operators by SIGKILL while they discard, import, move into another queue, restore from it, edit and
// retry. No message is lost. Those that are there twice are no more than 32 for each kill, one for an edit, and the journal names
// them.
func TestOperatorKilled(t *testing.T) {
	t.Parallel()
	p := shared(t)
	most := max(1500, 300**operatorKills)
	k := &killing{
		place: p, b: p.broker(), failed: p.queue("failed"), kept: p.queue("kept"), orders: p.queue("orders"), folder: t.TempDir(),
		names: map[string]string{}, named: map[string]bool{},
	}
	for _, queue := range []string{k.failed, k.kept} {
		k.b.declareQueue(queue, amqp.Table{"x-queue-type": "quorum", "x-delivery-limit": int32(1_000_000)})
	}
	k.b.declareQueue(k.orders, amqp.Table{"x-queue-type": "quorum"})
	k.edits(10 + 2**operatorKills)
	before := k.kills
	k.parked("", most)
	for round := range *operatorKills {
		k.archive = filepath.Join(k.folder, fmt.Sprint("archive", round))
		for _, action := range []string{"discard", "import", "move", "restore"} { // out and back
			k.killed(action, 1)
		}
	}
	k.killed("retry", *operatorKills)
	counts, copies := k.count(k.orders), 0
	for id, name := range k.names {
		n := counts[id]
		copies += n - 1
		if n == 0 {
			t.Errorf("message %s is lost", id)
		}
		if n > 1 && !k.named[name] {
			t.Errorf("message %s is there %d times, and the journal does not name it", id, n)
		}
	}
	t.Logf("%d kills, %d of %d messages are there twice", k.kills-before, copies, most)
	if copies > 32*(k.kills-before) {
		t.Errorf("%d copies too many after %d kills", copies, k.kills-before)
	}
}

// edits kills operators who give n messages another body, one after the other. Each is handled with the new body and under
// one id, and at most one for each kill is there twice.
func (k *killing) edits(n int) {
	k.Helper()
	k.parked("edit", n)
	k.archive = filepath.Join(k.folder, "none")
	k.killed("edit", *operatorKills)
	counts, copies := k.count(k.orders), 0
	for id, name := range k.names {
		times := counts[messageid.Derive(id, edited)]
		copies += times - 1
		if times == 0 {
			k.Errorf("the edit of message %s is lost", id)
		}
		if times > 1 && !k.named[name] {
			k.Errorf("the edit of message %s is there %d times, and the journal does not name it", id, times)
		}
	}
	if len(counts) != n || copies > k.kills {
		k.Errorf("%d edits of %d messages, %d there twice after %d kills", len(counts), n, copies, k.kills)
	}
	k.Logf("edits: %d kills, %d of %d messages are there twice", k.kills, copies, n)
	clear(k.names)
}

// TestErrorQueueTargets moves messages out of the middle of an error queue. The others stay, in their order. With -messages
// 100000 it measures what docs/operations.md says.
func TestErrorQueueTargets(t *testing.T) {
	for _, kind := range []string{"quorum", "classic"} {
		t.Run(kind, func(t *testing.T) { errorQueueTargets(t, kind) })
	}
}

func errorQueueTargets(t *testing.T, kind string) {
	t.Helper()
	p := shared(t)
	n := *targetMessages
	failed := p.failures(kind, n)
	q, err := errorqueue.Open(t.Context(), errorqueue.Config{Connect: harebus.ConnectConfig{URLs: []string{p.url}}, Name: failed, NoAudit: true, Most: n})
	p.try(err)
	others := p.others()
	before, began := heap(), time.Now()
	found, err := q.Look(t.Context(), errorqueue.Filter{})
	p.try(err)
	t.Logf("looked at %d in %v, the index has %.1f MB; meanwhile 99 of 100 confirms of others took at most %v", n, time.Since(began), float64(heap()-before)/1e6, others())
	began = time.Now()
	some := found.Messages[n/4 : n/4+min(n/2, 20_000)]
	report, err := q.Retry(t.Context(), some, errorqueue.Options{Rate: -1})
	p.try(err)
	took := time.Since(began)
	t.Logf("moved %d in %v, %.0f a second", report.Done, took, float64(report.Done)/took.Seconds())
	rest, err := q.Look(t.Context(), errorqueue.Filter{})
	p.try(err)
	p.try(q.Close())
	want := slices.Concat(found.Messages[:n/4], found.Messages[n/4+len(some):])
	if !slices.EqualFunc(want, rest.Messages, func(a, b errorqueue.Message) bool { return a.ID() == b.ID() }) {
		t.Errorf("%d messages stayed, or their order changed", len(rest.Messages))
	}
	if len(found.Messages) != n || report.Done != len(some) {
		t.Errorf("found %d of %d; of %d: %+v", len(found.Messages), n, len(some), report)
	}
	p.overview(failed, n-len(some))
}

// overview runs harebus errors, which finds n messages and needs 200 MB at most, also for 300,000 of them.
func (p *place) overview(failed string, n int) {
	p.Helper()
	var said bytes.Buffer
	cmd := exec.CommandContext(p.within(2*patience), newOperator(p, 0).binary, "errors", "-most", fmt.Sprint(n), "-error-queue", failed)
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{"AMQP_URL=" + p.url}, &said, &said
	p.try(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	most := regexp.MustCompile(`VmHWM:\s+(\d+) kB`)
	for memory := 0; ; {
		select {
		case err := <-ended:
			if err != nil || !strings.Contains(said.String(), fmt.Sprint(n, " failed messages")) {
				p.Errorf("harebus errors: %v: %s", err, said.String())
			}
			p.Logf("harebus errors needed %v, and %d MB of memory", cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), memory/1000)
			if memory > 200_000 {
				p.Error("that is more than 200 MB")
			}
			return
		case <-time.After(20 * time.Millisecond):
			if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)); err == nil {
				if found := most.FindSubmatch(status); found != nil {
					memory, _ = strconv.Atoi(string(found[1]))
				}
			}
		}
	}
}

// failures makes an error queue with n messages.
func (p *place) failures(kind string, n int) (name string) {
	p.Helper()
	b, failed, orders := p.broker(), p.queue("failed-"+kind), p.queue("orders-"+kind)
	for _, queue := range []string{failed, orders} {
		args := amqp.Table{"x-queue-type": kind}
		if kind == "quorum" {
			args["x-delivery-limit"] = int32(1_000_000)
		}
		b.declareQueue(queue, args)
	}
	var parked []amqp.Publishing
	for i := range n {
		parked = append(parked, amqp.Publishing{MessageId: harebus.NewMessageID(), DeliveryMode: amqp.Persistent, Body: make([]byte, 700), Type: "Place", Headers: amqp.Table{
			"PikaBus.SourceQueue": orders, "PikaBus.ErrorDetails": fmt.Sprintf("order %d: dial tcp 10.0.0.%d:5432: connect: connection refused", i, i%256),
			"PikaBus.ErrorId": harebus.NewMessageID(), "PikaBus.ErrorRetries": int8(6), "tenant": "north",
		}})
		if len(parked) == 5000 || i == n-1 {
			b.publishAll(failed, parked)
			parked = nil
		}
	}
	return failed
}

// others publishes a message every 5 ms, until the returned function ends that and says how long 99 of 100 confirms took.
func (p *place) others() func() time.Duration {
	p.Helper()
	queue := p.queue("others-" + harebus.NewMessageID())
	stop, took := make(chan struct{}), make(chan []time.Duration, 1)
	b := p.broker()
	b.declareQueue(queue, amqp.Table{"x-queue-type": "quorum"})
	go func() {
		err := b.do(func(ch *amqp.Channel) error {
			var all []time.Duration
			defer func() { took <- all }()
			if err := ch.Confirm(false); err != nil {
				return err
			}
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				began := time.Now()
				confirm, err := ch.PublishWithDeferredConfirm("", queue, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent})
				if err != nil {
					return err
				}
				confirm.Wait()
				all = append(all, time.Since(began))
				select {
				case <-stop:
					return nil
				case <-tick.C:
				}
			}
		})
		if err != nil {
			p.Errorf("publish beside the operator: %v", err)
		}
	}()
	return func() time.Duration {
		close(stop)
		all := <-took
		slices.Sort(all)
		if len(all) == 0 {
			return 0
		}
		return all[len(all)*99/100].Round(time.Millisecond)
	}
}

// heap is what lies in the memory of this process.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

var targetMessages = flag.Int("messages", 500, "how many messages TestErrorQueueTargets puts into the error queue")

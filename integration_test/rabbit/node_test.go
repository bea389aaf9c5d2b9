package rabbit_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/integration_test/rabbit"
)

func connect(t *testing.T, url string) (*amqp.Connection, *amqp.Channel) {
	t.Helper()
	connection, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	// The node may be killed while the connection is open, so closing it may fail.
	t.Cleanup(func() { _ = connection.CloseDeadline(time.Now().Add(time.Second)) })
	channel, err := connection.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return connection, channel
}

func publishConfirmed(ctx context.Context, t *testing.T, channel *amqp.Channel, queue, body string) {
	t.Helper()
	if err := channel.Confirm(false); err != nil {
		t.Fatal(err)
	}
	confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, amqp.Publishing{
		DeliveryMode: amqp.Persistent, Body: []byte(body),
	})
	if err != nil {
		t.Fatal(err)
	}
	if acked, err := confirmation.WaitContext(ctx); err != nil || !acked {
		t.Fatalf("publish to %s: acked %v, error %v", queue, acked, err)
	}
}

func declareQuorum(t *testing.T, channel *amqp.Channel, queue string) {
	t.Helper()
	if _, err := channel.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		t.Fatal(err)
	}
}

func TestNodeSurvivesKill(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	connection, channel := connect(t, node.URL())
	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	declareQuorum(t, channel, "kept")
	publishConfirmed(ctx, t, channel, "kept", "still here")
	if err := node.Sync(ctx); err != nil {
		t.Fatal(err)
	}

	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case reason := <-closed:
		t.Log("the client saw: ", reason)
	case <-ctx.Done():
		t.Fatal("the client did not notice that its broker was killed")
	}
	address := strings.TrimSuffix(strings.TrimPrefix(node.URL(), "amqp://guest:guest@"), "/")
	if open, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		t.Fatal("something listens on the port of a killed node: ", open.RemoteAddr())
	}
	if err := node.Kill(); err == nil {
		t.Fatal("a node that is down was killed without an error")
	}
	if err := node.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(ctx); err == nil {
		t.Fatal("a running node was started again without an error")
	}

	_, channel = connect(t, node.URL())
	deliveries, err := channel.ConsumeWithContext(ctx, "kept", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case delivery := <-deliveries:
		if string(delivery.Body) != "still here" {
			t.Errorf("after the restart: got %q", delivery.Body)
		}
	case <-ctx.Done():
		t.Error("after the restart: the message is gone")
	}
}

func TestNodePauses(t *testing.T) {
	t.Parallel()
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	_, channel := connect(t, node.URL())
	declareQuorum(t, channel, "frozen")
	if err := channel.Confirm(false); err != nil {
		t.Fatal(err)
	}
	publishConfirmed(ctx, t, channel, "frozen", "before")

	if err := node.Pause(); err != nil {
		t.Fatal(err)
	}
	confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, "", "frozen", true, false, amqp.Publishing{Body: []byte("during")})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-confirmation.Done():
		t.Fatal("a paused node confirmed a message")
	case <-time.After(time.Second):
	}
	if err := node.Resume(); err != nil {
		t.Fatal(err)
	}
	if acked, err := confirmation.WaitContext(ctx); err != nil || !acked {
		t.Fatalf("after the pause: acked %v, error %v", acked, err)
	}
}

func TestNodeStopsAndStarts(t *testing.T) {
	t.Parallel()
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	if err := node.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := node.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := node.Pause(); err == nil {
		t.Fatal("a node that is down was paused without an error")
	}
	if err := node.Launch(); err != nil {
		t.Fatal(err)
	}
	// A kill interrupts a node that is still coming up.
	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	log, err := node.Log()
	if err != nil {
		t.Fatal(err)
	}
	if starts := strings.Count(log, "Server startup complete"); starts != 2 {
		t.Errorf("the log tells of %d completed starts, want 2", starts)
	}
}

func TestNodeObeysCtl(t *testing.T) {
	t.Parallel()
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode, Config: []string{"channel_max = 77"}})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	must := func(args ...string) string {
		t.Helper()
		output, err := node.Ctl(ctx, args...)
		if err != nil {
			t.Fatal(err)
		}
		return output
	}

	must("add_vhost", "elsewhere")
	must("add_user", "alice", "secret word")
	must("set_permissions", "-p", "elsewhere", "alice", "^mine$", ".*", ".*")
	connection, channel := connect(t, strings.Replace(node.URL(), "guest:guest", "alice:secret%20word", 1)+"elsewhere")
	if connection.Config.ChannelMax != 77 {
		t.Errorf("channel_max is %d, so the extra configuration is not in force", connection.Config.ChannelMax)
	}
	if _, err := channel.QueueDeclare("mine", true, false, false, false, nil); err != nil {
		t.Error(err)
	}
	if listed := must("list_queues", "-p", "elsewhere", "name"); !strings.Contains(listed, "mine") {
		t.Errorf("list_queues printed %q", listed)
	}
	var refused *amqp.Error
	if _, err := channel.QueueDeclare("theirs", true, false, false, false, nil); !errors.As(err, &refused) || refused.Code != amqp.AccessRefused {
		t.Errorf("declaring beyond the permissions: %v", err)
	}

	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	must("close_all_connections", "--global", "told to")
	select {
	case reason := <-closed:
		if reason == nil || reason.Code != amqp.ConnectionForced {
			t.Errorf("the connection closed with %v", reason)
		}
	case <-ctx.Done():
		t.Fatal("close_all_connections closed nothing")
	}

	blockedConnection, channel := connect(t, node.URL())
	blocked := blockedConnection.NotifyBlocked(make(chan amqp.Blocking, 4))
	declareQuorum(t, channel, "full")
	must("set_vm_memory_high_watermark", "0.00001")
	// The broker blocks a connection when that publishes during an alarm, and notices the memory a little later.
	publish := time.NewTicker(100 * time.Millisecond)
	defer publish.Stop()
	for waiting := true; waiting; {
		select {
		case b := <-blocked:
			if waiting = false; !b.Active {
				t.Fatalf("the first notice is %+v", b)
			}
		case <-publish.C:
			if err := channel.PublishWithContext(ctx, "", "full", false, false, amqp.Publishing{}); err != nil {
				t.Fatal(err)
			}
		case <-ctx.Done():
			t.Fatal("the memory alarm did not block the publisher")
		}
	}
	must("set_vm_memory_high_watermark", "0.4")
	select {
	case b := <-blocked:
		if b.Active {
			t.Errorf("the second notice is %+v", b)
		}
	case <-ctx.Done():
		t.Fatal("the end of the memory alarm did not unblock the publisher")
	}

	if output, err := node.Eval(ctx, "1 + 1."); err != nil || strings.TrimSpace(output) != "2" {
		t.Errorf("eval printed %q, error %v", output, err)
	}
	if _, err := node.Ctl(ctx, "set_permissions", "nobody", ".*", ".*", ".*"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a failed command returned %v", err)
	}
}

func TestNodeCtlEndsWithContext(t *testing.T) {
	t.Parallel()
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	if err := node.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began := time.Now()
	if _, err := node.Ctl(ctx, "list_users"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("rabbitmqctl on a paused node returned %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestNodesRunSideBySide(t *testing.T) {
	t.Parallel()
	a := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	b := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode})
	if a.URL() == b.URL() || a.Name() == b.Name() {
		t.Fatalf("two nodes share %s or %s", a.URL(), a.Name())
	}
	_, channel := connect(t, a.URL())
	declareQuorum(t, channel, "on a")
	listed, err := b.Ctl(t.Context(), "list_queues", "name")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(listed, "on a") {
		t.Errorf("a queue of one node is on the other: %q", listed)
	}
}

func TestNodeListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	node := rabbit.Need(t, rabbit.Options{Kind: rabbit.KindNode, TLS: rabbit.ServerTLS})
	output, err := node.Eval(t.Context(), `[io:format("~s:~b~n", [inet:ntoa(Address), Number]) || P <- erlang:ports(),
		{ok, Status} <- [prim_inet:getstatus(P)], lists:member(listen, Status), {ok, {Address, Number}} <- [inet:sockname(P)]], ok.`)
	if err != nil {
		t.Fatal(err)
	}
	listeners := strings.Fields(strings.TrimSuffix(strings.TrimSpace(output), "ok"))
	if len(listeners) != 3 {
		t.Errorf("expected listeners for AMQP, AMQPS and distribution, got %q", listeners)
	}
	for _, listener := range listeners {
		if !strings.HasPrefix(listener, "127.0.0.1:") {
			t.Errorf("the node listens on %s", listener)
		}
	}
}

func TestNodeLeavesNothing(t *testing.T) {
	t.Parallel()
	node, err := rabbit.Start(t.Context(), rabbit.Options{Kind: rabbit.KindNode})
	rabbit.SkipWithoutBroker(t, err)
	home, err := node.Eval(t.Context(), `os:getenv("HOME").`)
	if err != nil {
		t.Fatal(err)
	}
	folder := os.Getenv("HAREBUS_RABBITMQ_ROOT") + strings.Trim(strings.TrimSpace(home), `"`)
	if _, err := os.Stat(folder); err != nil {
		t.Fatal(err)
	}
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", folder, err)
	}
}

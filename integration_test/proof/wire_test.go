package proof_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/ledger"
	"github.com/harebus/harebus/internal/proof"
	"github.com/harebus/harebus/topology"
)

var proxySeed = flag.Uint64("proxy-seed", 0, "repeat the cuts of TestCutAnywhere that a run printed; 0 draws others")

// confirms are all that a broker may say about a publish.
var confirms = []method{basicAck, basicNack}

// A wired run has a proxy between the service and its broker.
type wired struct {
	*run
	*proxy
	before harebus.Stats
}

// throughProxy runs a test for each type of queue, on a service whose network is the proxy's.
func throughProxy(t *testing.T, change func(*harebus.Config), test func(*wired)) {
	t.Helper()
	t.Parallel()
	for _, queueType := range []topology.QueueType{topology.Quorum, topology.Classic} {
		t.Run(string(queueType), func(t *testing.T) {
			t.Parallel()
			node := rabbit.Shared(t)
			p := newProxy(t, node)
			r := begin(t, plan{nodes: []*rabbit.Node{node}, queueType: queueType, rate: 100, change: func(c *harebus.Config) {
				c.Dial = p.Dial
				if change != nil {
					change(c)
				}
			}})
			test(&wired{run: r, proxy: p, before: r.service.Setup.Stats()})
		})
	}
}

// finish ends the run. Only what the client could not know the fate of may have come twice, and what the handlers of
// such messages sent: one message each at most.
func (w *wired) finish() *ledger.Verdict {
	w.Helper()
	verdict := w.run.end()
	w.locked(func() {
		if verdict.Duplicates > 2*len(w.unknown) && w.redelivered() == 0 {
			w.Errorf("%d messages are duplicated, but the outcome of only %d was unknown",
				verdict.Duplicates, len(w.unknown))
		}
	})
	return verdict
}

func (w *wired) redelivered() uint64 { return w.service.Setup.Stats().Redelivered }

// finishOnce ends a run in which nothing may be sent or handled twice.
func (w *wired) finishOnce() {
	w.Helper()
	if v := w.finish(); v.Duplicates > 0 {
		w.Errorf("%d messages are duplicated: nothing was to come twice", v.Duplicates)
	}
}

// undisturbed checks that the service has neither connected nor sent anything again.
func (w *wired) undisturbed() {
	w.Helper()
	s := w.service.Setup.Stats()
	if s.Connections != w.before.Connections || s.Republished != w.before.Republished {
		w.Errorf("%d connections and %d repeated publishes, both were to be none",
			s.Connections-w.before.Connections, s.Republished-w.before.Republished)
	}
}

// plain says whether a unit is a message that is published once and handled once if nothing goes wrong.
func plain(u *unit) bool {
	return strings.Contains(u.messageID, "/"+string(proof.Plain)+"/") && u.failures == 0
}

// alone says whether a publish is such a message, and the only one that is not confirmed.
func alone(c *pipe, u *unit) bool { return plain(u) && c.outstanding() == 1 }

// Fault 1: the connection ends within a publish, at each border between its frames. Nothing of it arrives, it is sent
// again under the same id, and comes once.
func TestPublishCut(t *testing.T) {
	throughProxy(t, nil, func(w *wired) {
		w.silence() // where confirms take long, no publish of the load is ever alone
		w.try(w.service.Settle(w.Context(), patience))
		var ids []string
		for frames := range 3 {
			w.fault(fmt.Sprintf("cut after %d frames of a publish", frames), func() {
				r := w.add(&rule{on: []method{basicPublish}, from: client, link: "publish", match: alone, do: cut, frames: frames})
				work := proof.Work{ID: proof.NewID(w.name+"/cut", 0, frames, proof.Plain), Seq: frames, Kind: proof.Plain}
				w.try(w.service.Send(w.within(patience), work, 0))
				w.awaitHits(r, 1)
				id := r.hits[0].messageID
				w.await(id+" comes again", func() bool { return w.published[id] > 0 })
				ids = append(ids, id)
			})
		}
		w.load()
		w.finishOnce()
		for _, id := range ids {
			if n := w.published[id]; n != 1 {
				w.Errorf("%s was published %d times", id, n)
			}
		}
		if n := w.service.Setup.Stats().Republished - w.before.Republished; n < 3 {
			w.Errorf("%d publishes were repeated", n)
		}
	})
}

// Fault 2: the connection ends after the broker has confirmed and before the client hears of it. What was confirmed is
// sent again under the same id, and nothing else comes twice.
func TestConfirmLost(t *testing.T) {
	throughProxy(t, nil, func(w *wired) {
		var lost []string
		w.fault("cut before a confirm", func() {
			r := w.add(&rule{on: confirms, from: broker, link: "publish", do: cut, match: func(c *pipe, u *unit) bool {
				lost = nil
				for _, p := range c.publishes[u.channel].covered(u) {
					if plain(p) {
						lost = append(lost, p.messageID)
					}
				}
				return len(lost) > 0
			}})
			w.awaitHits(r, 1)
			w.awaitTwice(lost)
		})
		if w.finish().Duplicates == 0 {
			w.Error("nothing is duplicated: the cut came too soon")
		}
	})
}

// awaitTwice waits until these messages have been published twice.
func (w *wired) awaitTwice(ids []string) {
	w.Helper()
	w.await(fmt.Sprintf("%q come again", ids), func() bool {
		return !slices.ContainsFunc(ids, func(id string) bool { return w.published[id] != 2 })
	})
}

// Faults 3, 5 and 6: confirms come 8 s late, come as one for 200 messages, and come in the wrong order; and returns
// come late. The service waits, each message gets its own outcome, and nothing is sent twice.
func TestConfirmLate(t *testing.T) {
	throughProxy(t, nil, func(w *wired) {
		w.fault("confirms 8 s late", func() {
			r := w.add(&rule{on: confirms, from: broker, link: "publish", do: hold, times: -1})
			time.Sleep(8 * time.Second)
			w.release(r, inOrder)
		})
		// The first message that others follow to a queue waits for its confirm: only then is the way known.
		w.try(w.sendTogether("the way", 2, 0))
		w.holdConfirms("one confirm for all", asOne)
		w.holdConfirms("confirms in reverse", reversed)
		w.undisturbed()
		w.returnsLate()
		w.finishOnce()
		if n, want := w.service.Setup.Stats().Published, w.forwarded(); n != want {
			w.Errorf("%d publishes are confirmed, %d were sent that a queue takes", n, want)
		}
	})
}

// forwarded is how many messages the broker got and did not return. One without an id is what the library's socket had
// no occasion to replace: the message itself follows.
func (w *wired) forwarded() (n uint64) {
	w.locked(func() {
		for id, times := range w.published {
			if id != "" {
				n += uint64(times)
			}
		}
		n -= uint64(w.returned)
	})
	return n
}

// holdConfirms sends 200 messages in one transaction and arranges their confirms.
func (w *wired) holdConfirms(name string, arrange func(*lane, []*unit) []*unit) {
	w.Helper()
	const together = 200
	w.fault(name, func() {
		r := w.add(&rule{on: confirms, from: broker, link: "publish", do: hold, times: -1})
		sent := make(chan error, 1)
		go func() { sent <- w.sendTogether(name, together, 0) }()
		w.await("200 confirms", func() bool { return covered(r.held) >= together })
		select {
		case err := <-sent:
			w.Errorf("the transaction ended before it was confirmed: %v", err)
		default:
			w.release(r, arrange)
			w.try(<-sent)
		}
	})
}

// sendTogether sends messages of some size in one transaction.
func (w *wired) sendTogether(name string, messages, size int) error {
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	works := make([]proof.Work, messages)
	for i := range works {
		id := proof.NewID(w.name+"/"+name, 0, i, proof.Plain)
		works[i] = proof.Work{ID: id, Seq: i, Kind: proof.Plain, Pad: strings.Repeat("x", size)}
	}
	return w.service.SendTogether(ctx, works, true)
}

// sendToNobody sends to a queue that does not exist.
func (w *wired) sendToNobody(i int, within time.Duration) error {
	ctx, cancel := context.WithTimeout(w.Context(), within)
	defer cancel()
	return w.service.Setup.Bus().Send(ctx, w.name+".nobody", proof.Child{ID: fmt.Sprint(i)})
}

func count(units []*unit, wanted func(*unit) bool) (n int) {
	for _, u := range units {
		if wanted(u) {
			n++
		}
	}
	return n
}

// covered counts the publishes that held confirms are for. It is called with the proxy's lock held.
func covered(confirms []held) int {
	tags := map[uint64]bool{}
	for _, h := range confirms {
		for _, u := range h.lane.pipe.publishes[h.unit.channel].covered(h.unit) {
			tags[u.tag] = true
		}
	}
	return len(tags)
}

// singly takes confirms apart: one for each publish. The proxy's lock is not held.
func singly(l *lane, confirms []*unit) []*unit {
	var units []*unit
	seen := map[uint64]bool{}
	l.pipe.proxy.locked(func() {
		for _, c := range confirms {
			for _, u := range l.pipe.publishes[c.channel].covered(c) {
				if !seen[u.tag] {
					units = append(units, newConfirm(c.channel, c.method, u.tag, false))
				}
				seen[u.tag] = true
			}
		}
	})
	return units
}

func inOrder(_ *lane, confirms []*unit) []*unit { return confirms }

func reversed(l *lane, confirms []*unit) []*unit {
	units := singly(l, confirms)
	slices.SortFunc(units, func(a, b *unit) int { return int(b.tag) - int(a.tag) })
	return units
}

// asOne makes one confirm of all up to the first that is missing.
func asOne(l *lane, confirms []*unit) []*unit {
	units := singly(l, confirms)
	slices.SortFunc(units, func(a, b *unit) int { return int(a.tag) - int(b.tag) })
	n := 1
	for n < len(units) && units[n].tag == units[0].tag+uint64(n) {
		n++
	}
	last := units[n-1]
	return append([]*unit{newConfirm(last.channel, basicAck, last.tag, true)}, units[n:]...)
}

// onFirst matches what comes on the channel that it meets first, which it notes.
func onFirst(first **tags) func(*pipe, *unit) bool {
	return func(c *pipe, u *unit) bool {
		if *first == nil {
			*first = c.publishes[u.channel]
		}
		return *first == c.publishes[u.channel]
	}
}

// Faults 4 and 34: a channel that lives is never confirmed, and then a single retry on it. After the timeout the
// messages are sent again on another channel of the same connection.
func TestConfirmNever(t *testing.T) {
	// A third of it is the time in which a channel has to answer, which a busy broker must be able to do.
	const timeout = 6 * time.Second
	short := func(c *harebus.Config) { c.Publish.ConfirmTimeout = timeout }
	throughProxy(t, short, func(w *wired) {
		var mute *tags
		w.fault("a channel without confirms", func() {
			r := w.add(&rule{
				on: confirms, from: broker, link: "publish", do: swallow, times: -1,
				match: onFirst(&mute),
			})
			began := time.Now()
			w.awaitHits(r, 1)
			var lost []string
			w.await("the channel is given up", func() bool {
				for _, u := range mute.open {
					if plain(u) && w.published[u.messageID] == 1 && !slices.Contains(lost, u.messageID) {
						lost = append(lost, u.messageID)
					}
				}
				return len(mute.open) == 0
			})
			if waited := time.Since(began); waited < timeout || waited > 3*timeout {
				w.Errorf("the channel was replaced after %v", waited)
			}
			w.awaitTwice(lost)
			if len(lost) == 0 {
				w.Error("no message was unconfirmed")
			}
			w.remove(r)
		})
		w.retrySwallowed()
		if n := w.service.Setup.Stats().Connections; n != w.before.Connections {
			w.Errorf("%d new connections: a new channel was to do", n-w.before.Connections)
		}
		w.finish()
	})
}

// A channel of the broker answers nothing, neither publishes nor requests, as one does that waits for the leader of a
// queue. The service does not wait for the confirm timeout, nor on the same connection; and sends meanwhile end when
// they should.
func TestChannelStuck(t *testing.T) {
	// The channel is not given up before a quarter and a third of the confirm timeout have passed: a send that waited
	// for that would be noticed.
	const moment = 200 * time.Millisecond
	short := func(c *harebus.Config) { c.Publish.ConfirmTimeout = 12 * time.Second }
	throughProxy(t, short, func(w *wired) {
		w.fault("a channel without answers", func() {
			r := w.add(&rule{
				on: append([]method{basicQosOk}, confirms...), from: broker, link: "publish", do: swallow, times: -1,
				match: onFirst(new(*tags)),
			})
			w.awaitHits(r, 1)
			w.eventually(patience, func() error {
				began := time.Now()
				err := w.sendToNobody(0, moment)
				if took := time.Since(began); took > moment+time.Second {
					w.Errorf("a send that had %v ended after %v: %v", moment, took, err)
				}
				if w.service.Setup.Stats().Connections == w.before.Connections {
					return errors.New("no new connection")
				}
				return nil
			})
		})
		w.finish()
	})
}

// returnsLate delays returns, and the confirms behind them, in the network. Until they come, no
// call returns; then each call reports that no queue takes the message.
func (w *wired) returnsLate() {
	w.Helper()
	const messages = 20
	answers := append([]method{basicReturn}, confirms...)
	w.fault("returns late", func() {
		r := w.add(&rule{on: answers, from: broker, link: "publish", do: hold, times: -1})
		outcomes := make(chan error, messages)
		for i := range messages {
			go func() { outcomes <- w.sendToNobody(i, patience) }()
		}
		returned := func(u *unit) bool { return u.method == basicReturn }
		w.await("all come back", func() bool { return count(r.hits, returned) >= messages })
		if len(outcomes) > 0 {
			w.Errorf("an outcome without a confirm: %v", <-outcomes)
		}
		w.release(r, inOrder)
		for range messages {
			if err := <-outcomes; !errors.Is(err, harebus.ErrUnroutable) {
				w.Errorf("a message for a queue that does not exist: %v", err)
			}
		}
	})
}

// A network so slow that what waits for the socket takes longer than the write timeout, though something moves all the
// time: the connection stays, and nothing is sent twice.
func TestSlowNetwork(t *testing.T) {
	const (
		rate     = 150 << 10
		messages = 48
		size     = 64 << 10
		timeout  = 4 * time.Second // TCP stands still for up to 2 s at this rate, and 7 s are waiting before it
	)
	impatient := func(c *harebus.Config) {
		c.Connect.WriteTimeout = timeout
		// A confirm takes 7 to 11 s: more than the time in which a channel has to answer, less than this.
		c.Publish.ConfirmTimeout = 18 * time.Second
	}
	throughProxy(t, impatient, func(w *wired) {
		w.silence() // so that what waits is known
		w.fault("slow network", func() {
			w.throttle(rate)
			began := time.Now()
			w.try(w.sendTogether("large", messages, size))
			if took := time.Since(began); took < 2*timeout {
				w.Errorf("the network was not slow: %v", took)
			}
			w.throttle(0)
		})
		w.load()
		w.undisturbed()
		w.finishOnce()
	})
}

// The network takes everything and delivers nothing, both ways, and no connection ends. Heartbeats tell; the service is
// back within one and a half intervals and the time to connect.
func TestHalfOpen(t *testing.T) {
	const heartbeat, connecting = 2 * time.Second, 3 * time.Second
	watchful := func(c *harebus.Config) { c.Connect.Heartbeat = heartbeat }
	throughProxy(t, watchful, func(w *wired) {
		w.fault("half-open", func() {
			began := time.Now()
			w.freeze()
			w.await("both links are back", func() bool { return w.links() == 2 })
			took := time.Since(began)
			if took > heartbeat*3/2+connecting {
				w.Errorf("back after %v", took)
			}
			w.Logf("back after %v", took)
		})
		w.finish()
	})
}

// links is on how many connections that are not frozen the service publishes or consumes. The proxy's lock is held.
func (w *wired) links() int {
	n := 0
	for _, c := range w.pipes {
		if !c.frozen && (len(c.publishes) > 0 || len(c.deliveries) > 0) {
			n++
		}
	}
	return n
}

// Connections are cut at any byte, in any direction, every 300 ms or so.
func TestCutAnywhere(t *testing.T) {
	throughProxy(t, nil, func(w *wired) {
		seed := *proxySeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		w.Logf("repeat with -proxy-seed=%d", seed)
		random := rand.New(rand.NewPCG(seed, seed))
		cuts := 0
		w.fault("cuts at random", func() {
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
				time.Sleep(200*time.Millisecond + time.Duration(random.IntN(200))*time.Millisecond)
				which, from, bytes := random.IntN(1<<20), random.IntN(2), random.IntN(600)
				if open := w.open(); len(open) > 0 {
					open[which%len(open)].lanes[from].cutAfter(bytes)
					cuts++
				}
			}
		})
		w.finish()
		if n := w.service.Setup.Stats().Connections - w.before.Connections; n < 5 {
			w.Errorf("%d cuts made for %d new connections only", cuts, n)
		}
	})
}

// Fault 34: the publish that takes a failed message into its retry is refused again and again. The message is not
// acknowledged but given back, is handled again, and comes once.
func TestRetryRefused(t *testing.T) {
	throughProxy(t, nil, func(w *wired) {
		w.fault("refused retries", func() {
			r := w.add(retriesOfOne(refuse))
			w.awaitHits(r, 1)
			id := r.hits[0].messageID
			w.await(id+" is given back", func() bool { return w.back[id] > 0 })
			w.locked(func() {
				if w.acked[id] > 0 || w.published[id] > 1 {
					w.Errorf("%s was acknowledged %d times and published %d times", id, w.acked[id], w.published[id])
				}
			})
			w.remove(r)
		})
		w.finishOnce()
		if w.redelivered() == 0 {
			w.Error("nothing was delivered again")
		}
	})
}

// retriesOfOne hits the first retry of some message that has no duplicate, and all attempts at it.
func retriesOfOne(do action) *rule {
	var id string
	return &rule{
		on: []method{basicPublish}, from: client, link: "publish", do: do, times: -1,
		match: func(c *pipe, u *unit) bool {
			once := c.proxy.published[u.messageID] == 1 && c.proxy.acked[u.messageID] == 0
			if id == "" && once && u.failures == 1 && strings.Contains(u.messageID, "/"+string(proof.Flaky)+"/") {
				id = u.messageID
			}
			return id != "" && u.messageID == id && u.failures == 1
		},
	}
}

// retrySwallowed drops the publish of a retry without an error. The failed message is not
// acknowledged until another attempt is confirmed.
func (w *wired) retrySwallowed() {
	w.Helper()
	w.fault("swallowed retry", func() {
		r := retriesOfOne(swallow)
		r.times = 2
		w.add(r)
		w.awaitHits(r, 1)
		id := r.hits[0].messageID
		w.awaitHits(r, 2)
		w.locked(func() {
			if w.acked[id] > 0 {
				w.Errorf("%s was acknowledged before its retry was confirmed", id)
			}
		})
		w.await(id+" is acknowledged", func() bool { return w.acked[id] > 0 && w.published[id] > 1 })
	})
}

// The connection ends within a delivery, between the method and the header and between the header and the body; then
// with acks on their way. What was not acknowledged comes again, marked as redelivered, and nothing else does.
func TestDeliveryCut(t *testing.T) {
	throughProxy(t, nil, func(w *wired) {
		for frames := 1; frames < 3; frames++ {
			w.fault(fmt.Sprintf("cut after %d frames of a delivery", frames), func() {
				r := w.add(&rule{on: []method{basicDeliver}, from: broker, link: "consume", do: cut, frames: frames})
				w.awaitHits(r, 1)
				id := r.hits[0].messageID
				w.await(id+" comes again", func() bool { return w.delivered[id] > 0 })
			})
		}
		w.fault("acks lost", func() {
			r := w.add(&rule{on: []method{basicAck}, from: client, link: "consume", do: swallow, times: -1})
			w.awaitHits(r, 1) // more may never come: one can be for all that the prefetch lets through
			w.cutAll("consume")
			w.remove(r)
		})
		if v := w.finish(); v.Duplicates == 0 || w.redelivered() == 0 {
			w.Errorf("%d duplicates, %d redelivered: lost acks must show", v.Duplicates, w.redelivered())
		}
	})
}

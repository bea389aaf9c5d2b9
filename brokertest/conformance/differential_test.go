package conformance

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "replay one seed of TestDifferential")
	seedsFlag = flag.Uint64("seeds", 25, "number of seeds of TestDifferential")
	stepsFlag = flag.Int("steps", 60, "operations of each seed of TestDifferential")
)

// TestDifferential does the same random operations on the broker in process and
// on every real one, and compares all a client can see after each: outcomes,
// error codes, counts, deliveries with their headers, and their order. Without
// a real broker it compares two runs in process, which must not differ either.
func TestDifferential(t *testing.T) {
	first, last := uint64(1), *seedsFlag
	if *seedFlag != 0 {
		first, last = *seedFlag, *seedFlag
	}
	brokers := targets(t)
	for seed := first; seed <= last; seed++ {
		wanted := simulate(t, brokers[0], seed, nil)
		others := brokers[1:]
		if len(others) == 0 {
			others = brokers[:1]
		}
		for _, b := range others {
			compare(t, b, seed, wanted, simulate(t, b, seed, wanted))
		}
	}
}

// compare reports the first difference with what led to it.
func compare(t *testing.T, b *target, seed uint64, wanted, got []step) {
	t.Helper()
	for i := range wanted {
		if wanted[i].String() == got[i].String() {
			continue
		}
		var history strings.Builder
		for _, s := range wanted[:i] {
			fmt.Fprintln(&history, s)
		}
		t.Errorf("seed %d differs at step %d (replay with -seed=%d)\n%sbrokertest: %v\n%s: %v", seed, i, seed, &history, wanted[i], b.name, got[i])
		return
	}
}

// step is what was done and what could be seen afterwards.
type step struct {
	what       string
	outcome    string
	queues     []string          // the counts of each queue
	deliveries map[string]string // by consumer, joined
}

func (s step) String() string {
	var in []string
	for _, c := range slices.Sorted(maps.Keys(s.deliveries)) {
		in = append(in, c+": "+s.deliveries[c])
	}
	return fmt.Sprintf("%-34s %s\n\t%s\n\t%s", s.what, s.outcome, strings.Join(s.queues, "  "), strings.Join(in, "\n\t"))
}

// machine does operations on one broker.
type machine struct {
	*env
	rand     *rand.Rand
	names    []string // of the queues
	args     []amqp.Table
	alias    *strings.Replacer
	control  *amqp.Channel
	publish1 *amqp.Channel
	returns  chan amqp.Return
	work     [3]*worker
	sent     int
	hint     *step
	before   int64 // deliveries the broker in process made before
	taken    int64 // deliveries since
}

// worker is a channel with what is unacknowledged on it.
type worker struct {
	ch      *amqp.Channel
	closed  chan *amqp.Error
	unacked []uint64
	tags    map[string]*subscription
}

// subscription is a consumer with what it got in this step.
type subscription struct {
	in    <-chan amqp.Delivery
	auto  bool
	queue int
}

// simulate runs a seed. What another broker showed says how long to wait.
func simulate(t *testing.T, b *target, seed uint64, hints []step) []step {
	t.Helper()
	m := &machine{env: newEnv(t, b), rand: rand.New(rand.NewPCG(seed, 7))}
	defer m.end()
	m.before = b.delivered.Load()
	m.build()
	steps := []step{m.built()}
	for i := range *stepsFlag {
		m.hint = nil
		if hints != nil {
			m.hint = &hints[i+1]
		}
		s := m.step()
		steps = append(steps, s)
		if m.hint != nil && s.String() != m.hint.String() {
			for len(steps) < len(hints) { // from here on nothing is comparable
				steps = append(steps, hints[len(steps)])
			}
			break
		}
	}
	return steps
}

// build declares the topology of a seed: an exchange of each kind and queues
// with random arguments that dead-letter to each other.
func (m *machine) build() {
	m.control, m.publish1 = m.ch, m.confirming()
	m.returns = m.publish1.NotifyReturn(make(chan amqp.Return, 10))
	pairs := []string{m.prefix, ""}
	for i := range 4 {
		m.names = append(m.names, m.n(fmt.Sprint("q", i)))
	}
	m.alias = strings.NewReplacer(pairs...)
	for _, kind := range []string{"direct", "topic", "fanout"} {
		m.ok(m.control.ExchangeDeclare(m.n(kind), kind, true, false, false, false, nil))
	}
	m.args = make([]amqp.Table, len(m.names))
	for i := range m.names {
		m.args[i] = m.randomArgs(45)
		m.declare(i)
	}
	for i := range m.work {
		m.work[i] = m.newWorker()
	}
}

// built describes the queues.
func (m *machine) built() step {
	s := step{what: "queues"}
	for i, args := range m.args {
		s.queues = append(s.queues, m.alias.Replace(fmt.Sprintf("q%d %v\n\t", i, args)))
	}
	return s
}

// end removes what build made.
func (m *machine) end() {
	for _, name := range m.names {
		_, _ = m.control.QueueDelete(name, false, false, false) // it may be gone
	}
	for _, kind := range []string{"direct", "topic", "fanout"} {
		_ = m.control.ExchangeDelete(m.n(kind), false, false) // a failure shows elsewhere
	}
	_ = m.conn.Close() // all is said
}

func (m *machine) newWorker() *worker {
	w := &worker{ch: m.channel(m.conn), tags: map[string]*subscription{}}
	w.closed = w.ch.NotifyClose(make(chan *amqp.Error, 1))
	return w
}

func (m *machine) pick(n int) int { return m.rand.IntN(n) }

func (m *machine) chance(percent int) bool { return m.pick(100) < percent }

// randomArgs draws arguments whose effect does not depend on time, those of a
// quorum queue with the given chance in percent.
func (m *machine) randomArgs(quorum int) amqp.Table {
	args := amqp.Table{}
	isQuorum := m.chance(quorum)
	if isQuorum {
		args["x-queue-type"] = "quorum"
		if m.chance(60) || m.broker.modern {
			args["x-delivery-limit"] = m.pick(4)
			if m.broker.modern {
				args["x-delivery-limit"] = 100 // what counts towards it changed
			}
		}
	} else if m.chance(25) {
		args["x-max-priority"] = 3
	}
	if m.chance(30) {
		args["x-max-length"] = m.pick(5)
		if !isQuorum && m.chance(60) {
			args["x-overflow"] = []string{"drop-head", "reject-publish", "reject-publish-dlx"}[m.pick(3)]
		}
	}
	if m.chance(60) {
		args["x-dead-letter-exchange"] = []string{"", m.n("direct"), m.n("topic"), m.n("fanout"), m.n("none")}[m.pick(5)]
		if args["x-dead-letter-exchange"] == "" || m.chance(50) {
			args["x-dead-letter-routing-key"] = m.names[m.pick(len(m.names))]
		}
	}
	if single := m.chance(15); single && !(isQuorum && m.broker.modern) { // priorities decide since 4.0
		args["x-single-active-consumer"] = true
	}
	return args
}

func (m *machine) declare(i int) {
	_, err := m.control.QueueDeclare(m.names[i], true, false, false, false, m.args[i])
	m.ok(err)
	for range m.pick(3) {
		kind := []string{"direct", "topic", "fanout"}[m.pick(3)]
		m.ok(m.control.QueueBind(m.names[i], m.key(), m.n(kind), false, nil))
	}
}

// key draws a routing key or pattern.
func (m *machine) key() string {
	if m.chance(30) {
		return m.names[m.pick(len(m.names))]
	}
	return []string{"a", "a.b", "b", "a.*", "#", "*.b"}[m.pick(6)]
}

// step does one operation and looks around.
func (m *machine) step() step {
	var s step
	ops := []struct {
		weight int
		do     func() (what, outcome string)
	}{
		{35, m.opPublish}, {15, m.opGet}, {25, m.opSettle}, {10, m.opConsume}, {5, m.opCancel},
		{3, m.opCloseChannel}, {2, m.opPurge}, {2, m.opDelete}, {4, m.opBind}, {3, m.opFail},
	}
	n := m.pick(104)
	for _, op := range ops {
		if n -= op.weight; n < 0 {
			s.what, s.outcome = op.do()
			break
		}
	}
	s.what, s.outcome = m.alias.Replace(s.what), m.alias.Replace(s.outcome)
	m.look(&s)
	return s
}

func (m *machine) opPublish() (string, string) {
	exchange := []string{"", "", m.n("direct"), m.n("topic"), m.n("fanout")}[m.pick(5)]
	key := m.key()
	if exchange == "" {
		key = m.names[m.pick(len(m.names))]
	}
	m.sent++
	p := amqp.Publishing{Body: fmt.Append(nil, "m", m.sent), Priority: uint8(m.pick(5)), DeliveryMode: uint8(1 + m.pick(2))}
	if m.broker.newest {
		p.Priority = 0 // quorum queues order by it since 4.3
	}
	if m.chance(15) {
		p.Headers = amqp.Table{"CC": []any{m.key()}}
	}
	what := fmt.Sprintf("publish m%d to %q %q prio %d %v", m.sent, exchange, key, p.Priority, p.Headers)
	c, err := m.publish1.PublishWithDeferredConfirm(exchange, key, true, false, p)
	m.ok(err)
	select {
	case <-c.Done():
	case <-time.After(patience):
		return what, "no confirm"
	}
	select {
	case <-m.returns:
		return what, fmt.Sprint("returned, ack ", c.Acked())
	default:
		return what, fmt.Sprint("ack ", c.Acked())
	}
}

func (m *machine) opGet() (string, string) {
	w, q := m.pick(len(m.work)), m.pick(len(m.names))
	auto := m.chance(40)
	what := fmt.Sprintf("get q%d on %d auto %v", q, w, auto)
	if m.args[q]["x-single-active-consumer"] != nil {
		return what, "left out"
	}
	d, ok, err := m.work[w].ch.Get(m.names[q], auto)
	if err != nil {
		return what, m.lost(w, err)
	}
	if !ok {
		return what, "empty"
	}
	if !auto {
		m.work[w].unacked = append(m.work[w].unacked, d.DeliveryTag)
	}
	return what, fmt.Sprintf("%s, %d left", m.show(d), d.MessageCount)
}

func (m *machine) opSettle() (string, string) {
	w := m.pick(len(m.work))
	k := m.work[w]
	if len(k.unacked) == 0 {
		return "settle nothing", ""
	}
	i := m.pick(len(k.unacked))
	tag, multiple, how := k.unacked[i], m.chance(25), m.pick(4)
	if multiple {
		k.unacked = slices.Clone(k.unacked[i+1:])
	} else {
		k.unacked = slices.Delete(k.unacked, i, i+1)
	}
	var err error
	switch how {
	case 0, 1:
		err = k.ch.Ack(tag, multiple)
	case 2:
		err = k.ch.Nack(tag, multiple, true)
	case 3:
		err = k.ch.Nack(tag, multiple, false)
	}
	m.ok(err)
	return fmt.Sprintf("settle %d on %d multiple %v how %d", tag, w, multiple, how), ""
}

func (m *machine) opConsume() (string, string) {
	w, q := m.pick(len(m.work)), m.pick(len(m.names))
	prefetch, auto, priority := 1+m.pick(3), m.chance(20), m.pick(3)
	tag := fmt.Sprint("c", m.pick(1000))
	if m.args[q]["x-delivery-limit"] != nil {
		prefetch = 1000 // RabbitMQ gives credit twice for a message it drops at the limit
	}
	what := fmt.Sprintf("consume q%d on %d as %s prefetch %d auto %v priority %d", q, w, tag, prefetch, auto, priority)
	for t, s := range m.work[w].tags {
		if t == tag || s.queue != q { // two queues share a channel in no order
			return what, "left out"
		}
	}
	m.ok(m.work[w].ch.Qos(prefetch, 0, false))
	in, err := m.work[w].ch.Consume(m.names[q], tag, auto, false, false, false, amqp.Table{"x-priority": priority})
	if err != nil {
		return what, m.lost(w, err)
	}
	m.work[w].tags[tag] = &subscription{in: in, auto: auto, queue: q}
	return what, "ok"
}

func (m *machine) opCancel() (string, string) {
	w := m.pick(len(m.work))
	tags := slices.Sorted(maps.Keys(m.work[w].tags))
	if len(tags) == 0 {
		return "cancel nothing", ""
	}
	tag := tags[m.pick(len(tags))]
	m.ok(m.work[w].ch.Cancel(tag, false))
	delete(m.work[w].tags, tag)
	return "cancel " + tag, ""
}

func (m *machine) opCloseChannel() (string, string) {
	w := m.pick(len(m.work))
	m.ok(m.work[w].ch.Close())
	m.work[w] = m.newWorker()
	return fmt.Sprint("close channel ", w), ""
}

func (m *machine) opPurge() (string, string) {
	q := m.pick(len(m.names))
	n, err := m.control.QueuePurge(m.names[q], false)
	m.ok(err)
	return fmt.Sprint("purge q", q), fmt.Sprint(n)
}

// opDelete deletes a queue and makes one with other arguments.
func (m *machine) opDelete() (string, string) {
	q := m.pick(len(m.names))
	if m.args[q]["x-queue-type"] != nil {
		// A channel that used a quorum queue may lose its connection with 541
		// when the queue goes, which is a race nobody wants to have as well.
		return fmt.Sprint("delete q", q), "left out"
	}
	for _, w := range m.work {
		for _, s := range w.tags {
			if s.queue == q { // it may move to the queue of the same name that comes at once
				return fmt.Sprint("delete q", q), "left out"
			}
		}
	}
	n, err := m.control.QueueDelete(m.names[q], false, false, false)
	m.ok(err)
	m.args[q] = m.randomArgs(0) // a queue that changes its type crashes 3.10's channels
	m.declare(q)
	return fmt.Sprintf("delete q%d, now %v", q, m.args[q]), fmt.Sprint(n)
}

func (m *machine) opBind() (string, string) {
	q, kind, key := m.pick(len(m.names)), []string{"direct", "topic", "fanout"}[m.pick(3)], m.key()
	if m.chance(40) {
		m.ok(m.control.QueueUnbind(m.names[q], key, m.n(kind), nil))
		return fmt.Sprintf("unbind q%d from %s %q", q, kind, key), ""
	}
	m.ok(m.control.QueueBind(m.names[q], key, m.n(kind), false, nil))
	return fmt.Sprintf("bind q%d to %s %q", q, kind, key), ""
}

// opFail provokes a channel error.
func (m *machine) opFail() (string, string) {
	w := m.pick(len(m.work))
	ch := m.work[w].ch
	switch m.pick(3) {
	case 0:
		_, err := ch.QueueDeclarePassive(m.n("none"), true, false, false, false, nil)
		return "passive declare of nothing", m.lost(w, err)
	case 1:
		_, err := ch.QueueDeclare(m.names[0], true, true, false, false, m.args[0])
		return "declare otherwise", m.lost(w, err)
	}
	m.ok(ch.Ack(1<<40, false))
	select {
	case err := <-m.work[w].closed:
		return "ack of nothing", m.lost(w, err)
	case <-time.After(patience):
		return "ack of nothing", "still open"
	}
}

// lost names the error that took a channel and opens another.
func (m *machine) lost(w int, err error) string {
	var ae *amqp.Error
	if !errors.As(err, &ae) {
		return fmt.Sprint("no error of the broker: ", err)
	}
	m.work[w] = m.newWorker()
	return fmt.Sprint("error ", ae.Code)
}

// look notes the counts and deliveries; with a hint it waits for the same.
func (m *machine) look(s *step) {
	s.deliveries = map[string]string{}
	deadline := time.Now()
	if m.hint != nil {
		deadline = deadline.Add(3 * time.Second)
	}
	if m.hint == nil {
		m.takeAll(s)
	}
	for {
		m.take(s)
		s.queues = m.counts()
		m.take(s)
		if !time.Now().Before(deadline) || s.String() == m.hint.String() {
			return
		}
		pause()
	}
}

// takeAll takes everything the broker in process sent.
func (m *machine) takeAll(s *step) {
	for _, w := range m.work { // what it sends, it sends before this answer
		_, err := w.ch.QueueDeclarePassive(m.names[0], true, false, false, false, nil)
		m.ok(err)
	}
	for deadline := time.Now().Add(patience); ; pause() {
		m.take(s)
		if m.taken == m.broker.delivered.Load()-m.before {
			return
		}
		if time.Now().After(deadline) {
			m.Fatalf("%d deliveries sent, %d came", m.broker.delivered.Load()-m.before, m.taken)
		}
	}
}

// counts returns the number of ready messages and consumers of each queue.
func (m *machine) counts() []string {
	var out []string
	for i, name := range m.names {
		q, err := m.control.QueueDeclarePassive(name, true, false, false, false, nil)
		m.ok(err)
		out = append(out, fmt.Sprintf("q%d %d/%d", i, q.Messages, q.Consumers))
	}
	return out
}

// take adds what consumers got to a step.
func (m *machine) take(s *step) {
	for i, w := range m.work {
		for tag, sub := range w.tags {
			for more := true; more; {
				select {
				case d, ok := <-sub.in:
					if !ok {
						s.deliveries[fmt.Sprint(i, tag)] += "consumer ended"
						delete(w.tags, tag)
						more = false
						break
					}
					m.taken++
					if !sub.auto {
						w.unacked = append(w.unacked, d.DeliveryTag)
						slices.Sort(w.unacked)
					}
					name := fmt.Sprint(i, tag)
					s.deliveries[name] += m.alias.Replace(m.show(d)) + "; "
				default:
					more = false
				}
			}
		}
	}
}

// show prints what a client sees of a delivery, less what differs by nature or
// between versions.
func (m *machine) show(d amqp.Delivery) string {
	headers := amqp.Table{}
	maps.Copy(headers, d.Headers)
	if m.broker.modern {
		for _, name := range []string{"CC", "x-delivery-count", "x-acquired-count", "x-last-death-exchange", "x-last-death-queue", "x-last-death-reason"} {
			delete(headers, name) // there or not there since 4.0 or 4.3
		}
		d.Redelivered = d.Redelivered && headers["x-death"] == nil
	}
	if events, ok := headers["x-death"].([]any); ok {
		for _, event := range events {
			if t, ok := event.(amqp.Table); ok {
				delete(t, "time")
			}
		}
	}
	return fmt.Sprintf("%s#%d %v %q %q %v", d.Body, d.DeliveryTag, d.Redelivered, d.Exchange, d.RoutingKey, headers)
}

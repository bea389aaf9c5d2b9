package brokertest_test

import (
	"context"
	"fmt"
	"log"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/brokertest"
)

// must ends an example that went wrong.
func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A program under test connects with its own client and notices nothing.
func Example() {
	b := brokertest.New()
	defer b.Close()

	conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
	must(err)
	defer conn.Close()
	ch, err := conn.Channel()
	must(err)
	_, err = ch.QueueDeclare("orders", true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	must(err)
	must(ch.Confirm(false))
	confirm, err := ch.PublishWithDeferredConfirm("", "orders", true, false, amqp.Publishing{MessageId: "1", Body: []byte("coffee")})
	must(err)
	fmt.Println("confirmed:", confirm.Wait())

	for _, m := range b.Messages("orders") {
		fmt.Printf("waiting: %s %q\n", m.MessageId, m.Body)
	}
	in, err := ch.Consume("orders", "", false, false, false, false, nil)
	must(err)
	d := <-in
	must(d.Ack(false))
	must(b.WaitQuiet(context.Background()))
	q, _ := b.Queue("orders")
	fmt.Println("left:", q.Ready+q.Unacked)
	// Output:
	// confirmed: true
	// waiting: 1 "coffee"
	// left: 0
}

// The confirm of a message that arrived is lost with the connection: the
// publisher cannot know, and sends it again.
func ExampleBroker_Inject() {
	b := brokertest.New()
	defer b.Close()
	b.Inject(brokertest.Fault{On: "basic.publish", Do: brokertest.CutAfter})

	for range 2 {
		conn, err := amqp.DialConfig(b.URL(), amqp.Config{Dial: b.Dial})
		must(err)
		ch, err := conn.Channel()
		must(err)
		_, err = ch.QueueDeclare("q", true, false, false, false, nil)
		must(err)
		must(ch.Confirm(false))
		confirm, err := ch.PublishWithDeferredConfirm("", "q", true, false, amqp.Publishing{MessageId: "1"})
		must(err)
		fmt.Println("confirmed:", confirm.Wait())
		_ = conn.Close() // the first one is cut
	}
	for _, m := range b.Messages("q") {
		fmt.Println("in the queue:", m.MessageId)
	}
	// Output:
	// confirmed: false
	// confirmed: true
	// in the queue: 1
	// in the queue: 1
}

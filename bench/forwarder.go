package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
)

// forwardedTopic is the topic of Watermill's forwarder, with the number of the round.
func (b *books) forwardedTopic() string { return fmt.Sprintf("forwarded_%d", b.topics.Load()) }

// forwarderKeeper stores messages with watermill-sql in the transaction; its forwarder polls the table and publishes them.
type forwarderKeeper struct {
	books *books
	topic string
	end   stopper
}

// pollInterval is that of the forwarder; its default is a second.
const pollInterval = 100 * time.Millisecond

func newForwarderKeeper(ctx context.Context, p *place, relay bool) (keeper, error) {
	k := forwarderKeeper{p.books, p.books.forwardedTopic(), func() error { return nil }}
	in, err := watermillsql.NewSubscriber(watermillsql.BeginnerFromStdSQL(p.books.db), watermillsql.SubscriberConfig{
		SchemaAdapter: watermillsql.DefaultPostgreSQLSchema{}, OffsetsAdapter: watermillsql.DefaultPostgreSQLOffsetsAdapter{},
		PollInterval: pollInterval, InitializeSchema: true,
	}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	if err := in.SubscribeInitialize(k.topic); err != nil {
		return nil, err
	}
	if !relay {
		return k, in.Close()
	}
	out, err := newWatermillPublisher(p)
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	f, err := forwarder.NewForwarder(in, out, watermill.NopLogger{}, forwarder.Config{ForwarderTopic: k.topic})
	if err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	<-f.Running()
	k.end = func() error { return errors.Join(f.Close(), <-ended, out.Close()) }
	return k, nil
}

func (k forwarderKeeper) transact(ctx context.Context, queue string, n int, text string) error {
	return k.books.transact(ctx, func(tx *sql.Tx) error {
		to, err := watermillsql.NewPublisher(watermillsql.TxFromStdSQL(tx), watermillsql.PublisherConfig{SchemaAdapter: watermillsql.DefaultPostgreSQLSchema{}}, watermill.NopLogger{})
		if err != nil {
			return err
		}
		messages := make([]*message.Message, n)
		for i := range messages {
			j := newJob(text)
			if messages[i], err = watermillMessage(&j, "", ""); err != nil {
				return err
			}
		}
		return forwarder.NewPublisher(to, forwarder.PublisherConfig{ForwarderTopic: k.topic}).Publish(queue, messages...)
	})
}

func (k forwarderKeeper) close() error { return k.end() }

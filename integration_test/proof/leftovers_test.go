package proof_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/harebus/harebus/integration_test/rabbit"
	"github.com/harebus/harebus/internal/ledger"
)

// leftovers asks a node for what a run, %s, has left in the whole cluster: its connections, channels that are theirs or
// nobody's, and its queues with consumers or unacknowledged messages.
const leftovers = `
Mine = fun (Name) -> binary:match(Name, <<"%s">>) =/= nomatch end,
OfMine = fun (Properties) when is_list(Properties) -> case lists:keyfind(<<"connection_name">>, 1, Properties) of
	{_, _, Name} -> Mine(Name);
	false -> false
end; (_) -> false end,
All = rabbit_networking:connection_info_all([pid, client_properties]),
Others = [Pid || [{_, Pid}, {_, Properties}] <- All, not OfMine(Properties)],
Connections = [Pid || [{_, Pid}, {_, Properties}] <- All, OfMine(Properties)],
Channels = [Pid || [{_, Pid}, {_, Connection}] <- rabbit_channel:info_all([pid, connection]),
	not lists:member(Connection, Others)],
Queues = [{Name, {unacknowledged, Messages}, {consumers, Consumers}} ||
	[{_, {resource, _, queue, Name}}, {_, Messages}, {_, Consumers}] <-
		rabbit_amqqueue:info_all(<<"/">>, [name, messages_unacknowledged, consumers]),
	Mine(Name), Messages + Consumers > 0],
[{What, Left} || {What, Left} <- [{connections, Connections}, {channels, Channels}, {queues, Queues}], Left =/= []].`

// noteLeftovers writes into the ledger what a stopped service has left on a private broker, once the broker has had
// time to notice the end of the connections: a channel that waits for a queue's frozen leader does so for up to 65 s.
// The question itself may fail while others' connections come and go, and while such a channel waits.
func (r *run) noteLeftovers() error {
	const notice, poll = 75 * time.Second, 200 * time.Millisecond
	for began := time.Now(); ; time.Sleep(poll) {
		left, err := r.leftovers()
		if err == nil && left == "[]" {
			return nil
		}
		if time.Since(began) > notice {
			if err != nil {
				return err
			}
			r.service.Book.Record(ledger.Event{Op: ledger.Left, Err: left})
			return nil
		}
	}
}

// leftovers asks the first private node that answers.
func (r *run) leftovers() (string, error) {
	var errs []error
	for _, node := range r.plan.nodes {
		if node.Kind() != rabbit.KindNode {
			return "[]", nil
		}
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		left, err := node.Eval(ctx, fmt.Sprintf(leftovers, r.name))
		cancel()
		if err == nil {
			return strings.TrimSpace(left), nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

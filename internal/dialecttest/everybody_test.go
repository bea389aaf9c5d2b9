package dialecttest

import (
	"path/filepath"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/dialect/celery"
	"github.com/harebus/harebus/dialect/cloudevents"
	"github.com/harebus/harebus/dialect/masstransit"
	"github.com/harebus/harebus/dialect/nservicebus"
	"github.com/harebus/harebus/dialect/spring"
	"github.com/harebus/harebus/dialect/wolverine"
	"github.com/harebus/harebus/internal/header"
	"github.com/harebus/harebus/internal/peer"
)

// TestEverybody: a service that speaks all dialects reads every message with that of its peer. NServiceBus' stands before Wolverine's; the others may stand
// anywhere.
func TestEverybody(t *testing.T) {
	t.Parallel()
	all := []dialect.Dialect{
		masstransit.New(masstransit.Config{}), cloudevents.New(cloudevents.Config{}), nservicebus.New(nservicebus.Config{}), wolverine.New(wolverine.Config{}),
		spring.New(spring.Config{}), celery.New(celery.Config{Results: true}),
	}
	own := &header.Dialect{Prefix: "PikaBus.", Names: header.NamesOf("PikaBus."), Time: header.ISOTime}
	files, err := filepath.Glob(filepath.Join("..", "..", "dialect", "*", "testdata", "*.json"))
	if err != nil || len(files) < 60 {
		t.Fatalf("%d goldens, %v", len(files), err)
	}
	for turn := range 3 {
		peers := peer.New(own, all, nil, []amqp.URI{{Host: Broker.Hosts[0], Vhost: Broker.VirtualHost}}, 16<<20)
		for _, file := range files {
			name, folder := strings.TrimSuffix(filepath.Base(file), ".json"), filepath.Dir(file)
			switch name {
			case "masstransit-topology": // no message
				continue
			case "nservicebus-minimal-in", "wolverine-minimal-in": // by names of Types only
				continue
			}
			w := load(t, folder, name)
			_, f, faults := peers.Read(delivery(&w))
			if got, want := f.Name(), filepath.Base(filepath.Dir(folder)); got != want {
				t.Errorf("%s, turn %d: it is read by %q, %v", name, turn, got, faults)
			}
		}
		all = append(all[2:], all[:2]...)
	}
}

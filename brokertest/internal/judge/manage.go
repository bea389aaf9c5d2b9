package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/harebus/harebus/brokertest"
)

// management offers what the suite calls of RabbitMQ's management interface:
// listing the connections and closing one of them; and, for the stand-in of
// rabbitmqctl, the memory alarm.
type management struct {
	addr   string
	server *http.Server
	done   chan error
}

func manage(b *brokertest.Broker) (*management, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/connections/", func(w http.ResponseWriter, _ *http.Request) {
		list := []map[string]any{}
		for _, c := range b.Connections() {
			list = append(list, map[string]any{"name": c.Name, "client_properties": map[string]string{"connection_name": c.Name}})
		}
		if err := json.NewEncoder(w).Encode(list); err != nil {
			fmt.Fprintln(os.Stderr, "judge: list connections:", err)
		}
	})
	mux.HandleFunc("DELETE /api/connections/{name}", func(w http.ResponseWriter, r *http.Request) {
		if b.CloseConnections("CONNECTION_FORCED - Closed via management plugin", r.PathValue("name")) == 0 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /watermark/{fraction}", func(_ http.ResponseWriter, r *http.Request) {
		if r.PathValue("fraction") == "0.0001" {
			b.Block("low on memory")
		} else {
			b.Unblock()
		}
	})
	m := &management{addr: l.Addr().String(), server: &http.Server{Handler: mux}, done: make(chan error, 1)}
	go func() { m.done <- m.server.Serve(l) }()
	return m, nil
}

func (m *management) close() {
	_ = m.server.Close() // it serves nobody any more
	<-m.done
}

// controlWatermark is what rabbitmqctl set_vm_memory_high_watermark does.
func controlWatermark(args []string) error {
	if len(args) != 1 {
		return errors.New("one fraction wanted")
	}
	resp, err := http.Post("http://"+os.Getenv("JUDGE_MANAGED")+"/watermark/"+args[0], "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

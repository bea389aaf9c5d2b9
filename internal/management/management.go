// Package management reads from the HTTP API of RabbitMQ's management plugin what AMQP does
// not tell: bindings, policies, and messages that were delivered and not acknowledged.
package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/topology"
)

// Client reads about one virtual host.
type Client struct {
	base           *url.URL
	user, password string
	vhost          string
	http           *http.Client
}

// Queue is a queue as the API shows it.
type Queue struct {
	Name string `json:"name"`
	// Unacknowledged is nil until the plugin has counted, and always if its statistics are switched off.
	Unacknowledged *int `json:"messages_unacknowledged"`
	// DeadLetters are those that a quorum queue keeps until they have arrived; nil if it is not told.
	DeadLetters *int           `json:"messages_dlx"`
	Policy      string         `json:"policy"`
	Effective   map[string]any `json:"effective_policy_definition"`
	Operator    string         `json:"operator_policy"`
}

// Node is a node of the broker as the API shows it. A number that it does not tell is 0.
type Node struct {
	Name        string   `json:"name"`
	Running     bool     `json:"running"`
	Partitions  []string `json:"partitions"` // the nodes that it does not see
	FilesUsed   Number   `json:"fd_used"`
	FilesMost   Number   `json:"fd_total"`
	SocketsUsed Number   `json:"sockets_used"`
	SocketsMost Number   `json:"sockets_total"`
	MemoryUsed  Number   `json:"mem_used"`
	MemoryMost  Number   `json:"mem_limit"`
	DiskFree    Number   `json:"disk_free"`
	DiskLeast   Number   `json:"disk_free_limit"`
}

// Number is a whole number. It is 0 where the API has a word instead, because the broker cannot measure it: "unknown", "NaN".
type Number int64

// UnmarshalJSON reads it.
func (n *Number) UnmarshalJSON(text []byte) error {
	value, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		value = 0
	}
	*n = Number(value)
	return nil
}

// New makes a client of the API at address, http(s)://host:port. A user in the address takes
// the place of the given one.
func New(address, user, password, vhost string) (*Client, error) {
	base, err := url.Parse(address)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, errors.New("the address of the management API is not of the form http://host:15672")
	}
	if own := base.User; own != nil {
		user = own.Username()
		password, _ = own.Password()
		base.User = nil
	}
	base = base.JoinPath("/")
	const timeout = 30 * time.Second
	return &Client{base: base, user: user, password: password, vhost: vhost, http: &http.Client{Timeout: timeout}}, nil
}

// Bindings are all bindings but those of the default exchange.
func (c *Client) Bindings(ctx context.Context) ([]topology.Binding, error) {
	var all []struct {
		Source      string         `json:"source"`
		Destination string         `json:"destination"`
		Kind        string         `json:"destination_type"`
		Key         string         `json:"routing_key"`
		Arguments   map[string]any `json:"arguments"`
	}
	if err := c.read(ctx, &all, "api", "bindings", c.vhost); err != nil {
		return nil, err
	}
	var bindings []topology.Binding
	for _, b := range all {
		field.Numbers(b.Arguments) // one with another number is another binding
		one := topology.Binding{Exchange: b.Source, Key: b.Key, Arguments: b.Arguments}
		if one.Queue = b.Destination; b.Kind == "exchange" {
			one.Queue, one.ToExchange = "", b.Destination
		}
		if b.Source != "" {
			bindings = append(bindings, one)
		}
	}
	return bindings, nil
}

// Queues are all queues.
func (c *Client) Queues(ctx context.Context) (map[string]Queue, error) {
	var all []Queue
	if err := c.read(ctx, &all, "api", "queues", c.vhost); err != nil {
		return nil, err
	}
	queues := make(map[string]Queue, len(all))
	for _, q := range all {
		queues[q.Name] = q
	}
	return queues, nil
}

// Nodes are all nodes of the broker.
func (c *Client) Nodes(ctx context.Context) (nodes []Node, err error) {
	err = c.read(ctx, &nodes, "api", "nodes")
	return nodes, err
}

// mostBytes bounds an answer.
const mostBytes = 256 << 20

func (c *Client) read(ctx context.Context, into any, path ...string) error {
	escaped := make([]string, len(path))
	for i, part := range path {
		escaped[i] = url.PathEscape(part)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.String(), nil)
	if err != nil {
		return fmt.Errorf("ask the management API: %w", err)
	}
	request.URL = c.base.JoinPath(escaped...)
	request.SetBasicAuth(c.user, c.password)
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("ask the management API: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		tags := "management or monitoring"
		if path[1] == "nodes" {
			tags = "monitoring"
		}
		return fmt.Errorf("ask the management API for %s: %s; it needs a user with the tag %s", path[1], response.Status, tags)
	}
	in := json.NewDecoder(io.LimitReader(response.Body, mostBytes))
	in.UseNumber()
	if err := in.Decode(into); err != nil {
		return fmt.Errorf("read the management API's %s: %w", path[1], err)
	}
	return nil
}

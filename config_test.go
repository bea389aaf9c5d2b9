package harebus_test

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/harebus/harebus"
	"github.com/harebus/harebus/topology"
)

// faults are configs that New refuses, each with a part of what it must say.
func faults() map[string]struct {
	cfg  harebus.Config
	says string
} {
	type fault = struct {
		cfg  harebus.Config
		says string
	}
	return map[string]fault{
		"url scheme":          {harebus.Config{URL: "http://host"}, "address 1"},
		"second url":          {harebus.Config{Connect: harebus.ConnectConfig{URLs: []string{"amqp://a", "::"}}}, "address 2"},
		"external without":    {harebus.Config{Connect: harebus.ConnectConfig{ExternalAuth: true}}, "ExternalAuth"},
		"external, no cert":   {harebus.Config{Connect: harebus.ConnectConfig{ExternalAuth: true, TLS: &tls.Config{MinVersion: tls.VersionTLS13}}}, "ExternalAuth"},
		"password alone":      {harebus.Config{Connect: harebus.ConnectConfig{Password: "x"}}, "Username"},
		"topics, no queue":    {harebus.Config{Subscriptions: []string{"a"}}, "Queue"},
		"arguments, no queue": {harebus.Config{QueueOptions: harebus.QueueOptions{Arguments: map[string]any{"x-max-length": 1}}}, "Queue"},
		"error queue":         {harebus.Config{Queue: "error"}, "circles"},
		"topic":               {harebus.Config{Queue: "q", Subscriptions: []string{"a#"}}, "a#"},
		"queue name":          {harebus.Config{Queue: "amq.q"}, "amq."},
		"queue length":        {harebus.Config{Queue: long[:256]}, "256"},
		"queue type":          {harebus.Config{Queue: "q", QueueOptions: harebus.QueueOptions{Type: "stream"}}, "stream"},
		"delivery limit -1":   {harebus.Config{Queue: "q", QueueOptions: harebus.QueueOptions{Arguments: map[string]any{"x-delivery-limit": -1}}}, "x-delivery-limit"},
		"direct exchange":     {harebus.Config{Exchanges: harebus.ExchangeConfig{Direct: "amq.topic"}}, "amq."},
		"topic exchange":      {harebus.Config{Exchanges: harebus.ExchangeConfig{Topic: "amq.fanout"}}, "amq."},
		"queue with a #":      {harebus.Config{Queue: "a.#"}, "a.#"},
		"queue *":             {harebus.Config{Queue: "*"}, "sent"},
		"error queue with #":  {harebus.Config{ErrorQueue: harebus.ErrorQueueConfig{Name: "#"}}, "sent"},
		"own queue with a #":  {harebus.Config{Declare: harebus.DeclareConfig{Topology: topology.Topology{Queues: []topology.Queue{{Name: "x.#"}}}}}, "x.#"},
		"exclusive queue":     {harebus.Config{Declare: harebus.DeclareConfig{Topology: topology.Topology{Queues: []topology.Queue{{Name: "mine", Type: topology.Classic, Exclusive: true}}}}}, "PerInstance"},
		"instances of what":   {harebus.Config{QueueOptions: harebus.QueueOptions{PerInstance: true}}, "PerInstance"},
		"instance name":       {harebus.Config{QueueOptions: harebus.QueueOptions{PerInstance: true}, Queue: long[:250]}, "263"},
		"same exchange":       {harebus.Config{Exchanges: harebus.ExchangeConfig{Direct: "x", Topic: "x"}}, "x"},
		"error queue name":    {harebus.Config{Queue: "q", ErrorQueue: harebus.ErrorQueueConfig{Name: "amq.e"}}, "amq."},
		"topology":            {harebus.Config{Declare: harebus.DeclareConfig{Topology: topology.Topology{Queues: []topology.Queue{{}}}}}, "queue"},
		"connection name":     {harebus.Config{Connect: harebus.ConnectConfig{Name: long}}, "Connect.Name"},
		"time format":         {harebus.Config{Payload: harebus.PayloadConfig{TimeFormat: 7}}, "TimeFormat"},
		"declare mode":        {harebus.Config{Declare: harebus.DeclareConfig{Mode: -1}}, "Declare"},
		"header prefix":       {harebus.Config{Payload: harebus.PayloadConfig{HeaderPrefix: long}}, "HeaderPrefix"},
		"header prefix text":  {harebus.Config{Payload: harebus.PayloadConfig{HeaderPrefix: "\xff"}}, "HeaderPrefix"},
		"concurrency":         {harebus.Config{Consume: harebus.ConsumeConfig{Concurrency: -1}}, "Consume.Concurrency"},
		"prefetch":            {harebus.Config{Consume: harebus.ConsumeConfig{Concurrency: 10, Prefetch: 9}}, "Consume.Prefetch"},
		"prefetch too much":   {harebus.Config{Consume: harebus.ConsumeConfig{Prefetch: 65536}}, "Consume.Prefetch"},
		"consumers":           {harebus.Config{Consume: harebus.ConsumeConfig{Consumers: -1}}, "Consume.Consumers"},
		"channels":            {harebus.Config{Publish: harebus.PublishConfig{Channels: -1}}, "Publish.Channels"},
		"window":              {harebus.Config{Publish: harebus.PublishConfig{Window: -1}}, "Publish.Window"},
		"confirm timeout":     {harebus.Config{Publish: harebus.PublishConfig{ConfirmTimeout: 1}}, "Publish.ConfirmTimeout"},
		"connect timeout":     {harebus.Config{Connect: harebus.ConnectConfig{Timeout: -1}}, "Connect.Timeout"},
		"request timeout":     {harebus.Config{Connect: harebus.ConnectConfig{RequestTimeout: -1}}, "Connect.RequestTimeout"},
		"write timeout":       {harebus.Config{Connect: harebus.ConnectConfig{WriteTimeout: -1}}, "Connect.WriteTimeout"},
		"heartbeat":           {harebus.Config{Connect: harebus.ConnectConfig{Heartbeat: time.Millisecond}}, "Connect.Heartbeat"},
		"max body":            {harebus.Config{Payload: harebus.PayloadConfig{MaxBody: -1}}, "MaxBody"},
		"context no name":     {harebus.Config{Payload: harebus.PayloadConfig{Context: []harebus.ContextHeader{{}}}}, "Payload.Context[0]"},
		"context standard":    {harebus.Config{Payload: harebus.PayloadConfig{Context: []harebus.ContextHeader{{Name: "PikaBus.MessageId"}}}}, "standard header"},
		"context broker":      {harebus.Config{Payload: harebus.PayloadConfig{Context: []harebus.ContextHeader{{Name: "x-death"}}}}, "belongs to the broker"},
		"context twice":       {harebus.Config{Payload: harebus.PayloadConfig{Context: []harebus.ContextHeader{{Name: "a"}, {Name: "a"}}}}, "twice"},
		"context too long":    {harebus.Config{Payload: harebus.PayloadConfig{Context: []harebus.ContextHeader{{Name: "a", Max: 5000}}}}, "Payload.Context[0].Max"},
		"environment":         {harebus.Config{Payload: harebus.PayloadConfig{Environment: strings.Repeat("x", 256)}}, "Payload.Environment"},
		"build":               {harebus.Config{Payload: harebus.PayloadConfig{Build: "\xff"}}, "Payload.Environment or Build"},
		"max hops":            {harebus.Config{Reply: harebus.ReplyConfig{MaxHops: -1}}, "MaxHops"},
		"shutdown":            {harebus.Config{ShutdownTimeout: -1}, "ShutdownTimeout"},
		"rule":                {harebus.Config{Retry: harebus.RetryConfig{Rules: []harebus.RetryRule{{}}}}, "Retry.Rules[0]"},
		"nil codec":           {harebus.Config{Payload: harebus.PayloadConfig{Codecs: []harebus.Codec{nil}}}, "Codecs[0]"},
		"nil type codec":      {harebus.Config{Payload: harebus.PayloadConfig{TypeCodecs: map[string]harebus.Codec{"T": nil}}}, "TypeCodecs[T]"},
		"nil middleware":      {harebus.Config{Handling: harebus.HandlingConfig{Middleware: []harebus.Middleware{nil}}}, "Handling.Middleware[0]"},
		"nil send middleware": {harebus.Config{Publish: harebus.PublishConfig{Middleware: []harebus.SendMiddleware{nil}}}, "Publish.Middleware[0]"},
	}
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	for name, c := range faults() {
		t.Run(name, func(t *testing.T) {
			s, err := harebus.New(c.cfg)
			if err == nil || s != nil {
				t.Fatalf("accepted: %v", err)
			}
			contains(t, err.Error(), "harebus: new setup: ", c.says)
		})
	}
}

// TestConfigAllFaults: one look at the error is enough to repair them all.
func TestConfigAllFaults(t *testing.T) {
	t.Parallel()
	_, err := harebus.New(harebus.Config{
		Connect: harebus.ConnectConfig{URLs: []string{"http://a", "http://b"}, ExternalAuth: true, Password: "secret"}, Exchanges: harebus.ExchangeConfig{Direct: "amq.d", Topic: "amq.t"}, Payload: harebus.PayloadConfig{TimeFormat: 9, MaxBody: -1, Codecs: []harebus.Codec{nil}}, Declare: harebus.DeclareConfig{Mode: 9}, Subscriptions: []string{"a#"},

		Consume: harebus.ConsumeConfig{Concurrency: -1, Consumers: -1}, Publish: harebus.PublishConfig{Window: -1},
		Retry: harebus.RetryConfig{Rules: []harebus.RetryRule{{}, {}}},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	contains(t, err.Error(), "address 1", "address 2", "ExternalAuth", "Username", "need a Queue", "a#", "amq.d", "amq.t", "TimeFormat",
		"Declare", "MaxBody", "Concurrency", "Consumers", "Window", "Rules[0]", "Rules[1]", "Codecs[0]")
	if strings.Contains(err.Error(), "secret") {
		t.Error("the error holds the password")
	}
}

// TestConfigKeepsPasswords: an address that cannot be parsed must not end up in
// an error, and neither must one that can and refuses to connect.
func TestConfigKeepsPasswords(t *testing.T) {
	t.Parallel()
	const password = "s3cr3t"
	for _, url := range []string{
		"amqp://user:" + password + "@host:port/", "amqp://user:" + password + "@ho st/", "amqps://user:" + password + "%zz@host",
		"amqp://user:" + password + "@host:99999999/", "ftp://user:" + password + "@host/", "user:" + password + "@host", ":" + password,
		"amqp://" + password + "\x00@host",
	} {
		_, err := harebus.New(harebus.Config{URL: url, Payload: harebus.PayloadConfig{MaxBody: -1}})
		if err == nil {
			t.Errorf("%q was accepted", url)
		} else if strings.Contains(err.Error(), password) {
			t.Errorf("the error holds the password: %v", err)
		}
	}
	refuse := func(string, string) (net.Conn, error) { return nil, errors.New("connection refused") }
	s, err := harebus.New(harebus.Config{URL: "amqp://user:" + password + "@host/vhost", Dial: refuse, Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return nil })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for call, err := range map[string]error{
		"init": s.Init(ctx), "send": s.Bus().Send(ctx, "x", order{1}), "start": s.Start(ctx), "ready": s.Ready(),
	} {
		if err == nil || strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v", call, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestConfigCopied: what the caller does with its config after New changes
// nothing, and New changes nothing of the caller's.
func TestConfigCopied(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		cfg := r.config("orders")
		cfg.URL, cfg.Connect.URLs = "", []string{r.broker.URL()}
		cfg.Subscriptions = []string{"a.b"}
		cfg.QueueOptions.Arguments = map[string]any{"x-max-length": 10}
		cfg.Payload.TypeCodecs = map[string]harebus.Codec{"Order": harebus.JSON{}}
		cfg.Retry.Rules = []harebus.RetryRule{{Match: func(error) bool { return false }}}
		before := cfg
		before.Connect.URLs, before.Subscriptions = append([]string{}, cfg.Connect.URLs...), append([]string{}, cfg.Subscriptions...)
		before.QueueOptions.Arguments = maps.Clone(cfg.QueueOptions.Arguments)
		s := r.setup(cfg)
		if !reflect.DeepEqual(cfg.Connect.URLs, before.Connect.URLs) || !reflect.DeepEqual(cfg.QueueOptions.Arguments, before.QueueOptions.Arguments) ||
			cfg.Retry.Rules[0].MaxRetries != 0 || cfg.Queue != before.Queue || !reflect.DeepEqual(cfg.Consume, before.Consume) {
			t.Errorf("New changed its argument: %+v", cfg)
		}
		cfg.Connect.URLs[0], cfg.Subscriptions[0], cfg.QueueOptions.Arguments["x-max-length"] = "http://", "x.y", 99
		delete(cfg.Payload.TypeCodecs, "Order")
		cfg.Retry.Rules[0].Match = nil
		harebus.Handle(s, func(context.Context, *harebus.Bus, order) error { return errors.New("no") })
		r.start(s)
		if err := s.Bus().Publish(r.ctx, "a.b", order{1}); err != nil {
			t.Error(err)
		}
		if q, _ := r.broker.Queue("orders"); q.Arguments["x-max-length"] != int64(10) && q.Arguments["x-max-length"] != int32(10) {
			t.Errorf("arguments %v", q.Arguments)
		}
		r.quiet("error")
	})
}

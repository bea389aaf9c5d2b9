// Package pulse has the instances of a service say how they are, when somebody asks: version,
// what they handle now, counts and times of each message type. Operators can also pause queues
// and change their limits, where a service allows it. It needs the broker and nothing else.
//
// A service answers:
//
//	p, err := pulse.New(pulse.Config{Service: "orders"})
//	p.Use(&cfg)
//	setup, err := harebus.New(cfg)
//	…
//	go func() { _ = p.Serve(ctx, setup) }()
//
// The commands harebus status, harebus top and harebus control ask, and so does a [Client]:
//
//	c, err := pulse.Open(pulse.ClientConfig{Connect: harebus.ConnectConfig{URLs: urls}})
//	round, err := c.Ask(ctx, pulse.Target{})
//
// Nothing is sent while nobody asks, and handling a message costs nothing more: the counts
// are those of [harebus.Endpoint.Stats]. docs/pulse.md says how it works and what is promised.
package pulse

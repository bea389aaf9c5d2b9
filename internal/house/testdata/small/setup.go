package small

import amqp "github.com/rabbitmq/amqp091-go"

// Config has a field that Setup reads.
type Config struct{ Queue string }

func (c *Config) name() string { return c.Queue }

// A Setup holds a Config.
type Setup struct{ cfg Config }

// New makes one.
func New(cfg Config) *Setup {
	return &Setup{cfg: cfg}
}

func (s *Setup) table() amqp.Table {
	return amqp.Table{
		"queue": s.cfg.Queue,
		"name":  s.cfg.name(),
	}
}

package small

type Config struct{ Queue string }

func (c *Config) name() string { return c.Queue }

package small

type Config struct{ Queue string }

func read(cfg Config) string { return cfg.Queue }

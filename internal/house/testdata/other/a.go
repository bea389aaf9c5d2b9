package small

type Message struct{ Queue string }

func (c Message) name() string { return c.Queue }

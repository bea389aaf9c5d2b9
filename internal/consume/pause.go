package consume

// pause has the consumer stop consuming. The channel is closed when it has, and no
// worker has a message.
func (c *consumer) pause() (rested <-chan struct{}) {
	c.mu.Lock()
	if !c.paused {
		c.paused, c.rested = true, make(chan struct{})
		defer c.log.Info("paused")
	}
	c.noteRestLocked()
	rested = c.rested
	c.mu.Unlock()
	c.nudge()
	return rested
}

func (c *consumer) resume() {
	c.mu.Lock()
	was := c.paused
	c.paused = false
	c.mu.Unlock()
	if was {
		c.nudge()
		c.log.Info("resumed")
	}
}

func (c *consumer) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

// nudge has the consumer's goroutine look at what it should consume.
func (c *consumer) nudge() {
	select {
	case c.nudged <- struct{}{}:
	default: // it has been told already
	}
}

// mayOpen says whether the consumer may start to consume. If so, no pause comes into
// effect before opened is called.
func (c *consumer) mayOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opening = !c.paused
	return c.opening
}

func (c *consumer) opened() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opening = false
	c.noteRestLocked()
}

// noteRest tells those who pause when there is nothing to wait for any more.
func (c *consumer) noteRest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noteRestLocked()
}

// noteRestLocked is noteRest with mu held. A worker that rests has seen the end of its
// feed, so nothing that was delivered is on its way to a handler. While there is a feed
// to read from, a worker rests only for the moment before it looks at that feed.
func (c *consumer) noteRestLocked() {
	if !c.paused || c.opening || (c.feed != nil && !c.feed.standing) || c.resting.Load() != int64(len(c.workers)) {
		return
	}
	select {
	case <-c.rested: // closed before
	default:
		close(c.rested)
	}
}

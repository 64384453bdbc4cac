package transport

// Senders returns how many sends have begun and not ended.
func (c *Channel) Senders() int {
	c.wr.queue.mu.Lock()
	defer c.wr.queue.mu.Unlock()
	return c.wr.queue.length
}

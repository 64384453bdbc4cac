package transport

// Senders returns how many sends have begun and not ended.
func (c *Channel) Senders() int {
	c.wr.queue.mu.Lock()
	defer c.wr.queue.mu.Unlock()
	n := 0
	for p := c.wr.queue.first; p != nil; p = p.next {
		n++
	}
	return n
}

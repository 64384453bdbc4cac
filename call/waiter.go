package call

// waiter is a goroutine in a wait for an event of a connection. The connection's
// mu guards it, except wake.
type waiter struct {
	wake  chan struct{} // of capacity 1; see waitList.add
	ready bool          // the event has come

	list       *waitList // with the waiter in it, or nil
	prev, next *waiter
}

// waitList has the goroutines of a connection in a wait without the role, in the
// order of their arrival.
type waitList struct{ first, last *waiter }

func (l *waitList) empty() bool { return l.first == nil }

func (l *waitList) add(w *waiter) {
	if w.wake == nil {
		w.wake = make(chan struct{}, 1)
	}
	w.list, w.prev = l, l.last
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
}

// remove takes w out of the list if it is in there, and takes back an unused
// wake-up.
func (l *waitList) remove(w *waiter) {
	l.unlink(w)
	select {
	case <-w.wake:
	default:
	}
}

func (l *waitList) unlink(w *waiter) {
	if w.list == nil {
		return
	}
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
	w.list, w.prev, w.next = nil, nil, nil
}

// wakeFirst wakes the first goroutine, takes it out of the list and returns it, or nil.
func (l *waitList) wakeFirst() *waiter {
	w := l.first
	if w != nil {
		l.unlink(w)
		w.wake <- struct{}{}
	}
	return w
}

// signal reports the event to w. If w's goroutine reads at the moment, it stops.
func (c *Conn) signal(w *waiter) {
	w.ready = true
	if l := w.list; l != nil {
		l.unlink(w)
		w.wake <- struct{}{}
	} else if c.reading.reader == w {
		c.frames.Wake()
	}
}

// waiters has the goroutines in a wait for one kind of event, in their order.
type waiters struct{ all []*waiter }

func (s *waiters) add(w *waiter) { s.all = append(s.all, w) }

func (s *waiters) remove(w *waiter) {
	for i, other := range s.all {
		if other == w {
			s.all = append(s.all[:i], s.all[i+1:]...)
			return
		}
	}
}

func (s *waiters) signalFirst(c *Conn) {
	if len(s.all) > 0 {
		c.signal(s.all[0])
		s.all = s.all[1:]
	}
}

func (s *waiters) signalAll(c *Conn) {
	for _, w := range s.all {
		c.signal(w)
	}
	s.all = nil
}

package handshake

// Held counts what a Listener holds on to; all are 0 when nobody is expected, pending or attached.
type Held struct{ Expected, ByPID, Sessions, Pending, Proved int }

func (l *Listener) Held() Held {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := Held{len(l.expected), len(l.byPID), len(l.sessions), l.pending.Len(), 0}
	for e := l.pending.Front(); e != nil; e = e.Next() {
		if e.Value.(*pending).proved {
			held.Proved++
		}
	}
	return held
}

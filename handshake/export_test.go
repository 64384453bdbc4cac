package handshake

import "time"

// Held counts what a Listener holds on to; all are 0 when nobody is expected, pending or attached.
type Held struct{ Expected, ByPID, Reserves, Sessions, Pending, Proved int }

func (l *Listener) Held() Held {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := Held{len(l.expected), len(l.byPID), len(l.reserves), len(l.sessions), l.pending.Len(), 0}
	for e := l.pending.Front(); e != nil; e = e.Next() {
		if e.Value.(*pending).proved {
			held.Proved++
		}
	}
	return held
}

// LogEveryRefusal gives each refused connection a line.
func (l *Listener) LogEveryRefusal() {
	l.refusals.mu.Lock()
	defer l.refusals.mu.Unlock()
	l.refusals.interval = 0
}

// Refusals counts refusals as a Listener does.
type Refusals struct{ r *refusals }

func NewRefusals() Refusals {
	return Refusals{&refusals{interval: refusalInterval, tallies: make(map[cause]*tally)}}
}

func (r Refusals) Count(c string) (line bool, unlogged int) { return r.r.count(cause(c), time.Now()) }

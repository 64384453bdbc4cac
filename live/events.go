package live

import (
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spawnwire/spawnwire/internal/inspect"
	"github.com/spawnwire/spawnwire/internal/wait"
)

const (
	interval = time.Second // between two looks of an open page
	maxLoad  = 20          // the making of events takes a twentieth of a processor
	// perProcess is the part of a process in the time between two looks. A look takes
	// processor time of each process.
	perProcess = 50 * time.Millisecond
	heartbeat  = 15 * time.Second // between two events at most
	writeBound = 10 * time.Second // for an event
	maxStreams = 16               // open pages
)

// change is an event: all rows, or those that have changed.
type change struct {
	At      string                   `json:"at"`
	Summary string                   `json:"summary"`
	All     string                   `json:"all,omitempty"`
	Rows    map[string]template.HTML `json:"rows,omitempty"`
}

// events sends the changes of the tree as server-sent events (WHATWG HTML, section
// 9.2) until the client has gone.
func (h *handler) events(w http.ResponseWriter, r *http.Request) {
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		http.Error(w, "live: too many open pages", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	var last []row
	sent := time.Now()
	for r.Context().Err() == nil {
		tree, err := h.looks.look(r.Context())
		if err != nil {
			return
		}
		began := time.Now()
		rows := h.rows(tree)
		event := newEvent(tree, last, rows)
		if event == "" && time.Since(sent) > heartbeat {
			event = ":\n\n" // a comment
		}
		last = rows
		if event != "" {
			out.SetWriteDeadline(time.Now().Add(writeBound)) // some writers have none
			fmt.Fprint(w, event)
			if out.Flush() != nil {
				return
			}
			sent = time.Now()
		}
		wait.For(r.Context(), nil, pause(len(tree.Processes), time.Since(began)))
	}
}

// pause returns the time until the next look at a tree, whose event has taken some time.
func pause(processes int, took time.Duration) time.Duration {
	return max(interval, min(max(maxLoad*took, time.Duration(processes)*perProcess), heartbeat))
}

// newEvent returns the event with the difference of two tables, or "".
func newEvent(tree *inspect.Snapshot, last, now []row) string {
	c := change{At: tree.At.Format(time.TimeOnly), Summary: summary(tree)}
	if slices.EqualFunc(last, now, func(a, b row) bool { return a.Key == b.Key }) {
		c.Rows = make(map[string]template.HTML)
		for i := range now {
			if now[i] != last[i] {
				c.Rows[now[i].Key] = now[i].html()
			}
		}
		if len(c.Rows) == 0 {
			return ""
		}
	} else {
		var all strings.Builder
		for i := range now {
			all.WriteString(string(now[i].html()))
		}
		c.All = all.String()
	}
	data, err := json.Marshal(c)
	if err != nil {
		return ""
	}
	return "data: " + string(data) + "\n\n"
}

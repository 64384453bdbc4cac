package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/inspect"
)

const (
	treeBound  = 900 * time.Millisecond  // so that the page is there within a second
	stackBound = 1800 * time.Millisecond // so that the stacks are there within two
	fresh      = time.Second / 2         // how long viewers share a look
)

// spawner are the methods of a Spawner for this package.
type spawner interface {
	Inspect(context.Context, frame.Inspect) *inspect.Report
	Ask(context.Context, frame.Inspect) ([]byte, error)
	Child(id string) (child *forkspawn.Child, again bool)
	Restart(context.Context, *forkspawn.Child) error
}

func door(s *forkspawn.Spawner) spawner { return s.Internal(access.Key{}) }

// looks makes the looks at the tree, one at a time.
type looks struct {
	s    spawner
	turn chan struct{} // holds one value while a goroutine owns last
	last *inspect.Snapshot
}

func newLooks(s *forkspawn.Spawner) *looks {
	return &looks{s: door(s), turn: make(chan struct{}, 1)}
}

// look returns the tree, not older than fresh.
func (l *looks) look(ctx context.Context) (*inspect.Snapshot, error) {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.turn }()
	if l.last != nil && time.Since(l.last.At) < fresh {
		return l.last, nil
	}
	r := l.s.Inspect(ctx, frame.Inspect{What: inspect.Tree, Bound: treeBound})
	if ctx.Err() != nil {
		return nil, ctx.Err() // the children may not have been asked
	}
	l.last = inspect.NewSnapshot(r)
	return l.last, nil
}

// find returns the process with an id, a name or a pid, and the ids on the way to it.
func (h *handler) find(
	ctx context.Context, name string,
) (found inspect.Process, path []string, err error) {
	tree, err := h.looks.look(ctx)
	if err != nil {
		return found, nil, err
	}
	all := tree.Processes
	if name == root {
		return all[0], nil, nil
	}
	matches := func(is func(p inspect.Process) bool) (at []int) {
		for i, p := range all {
			if is(p) {
				at = append(at, i)
			}
		}
		return at
	}
	at := matches(func(p inspect.Process) bool { return p.ID == name })
	if len(at) == 0 {
		at = matches(func(p inspect.Process) bool { return p.Name == name })
	}
	if len(at) == 0 {
		at = matches(func(p inspect.Process) bool { return strconv.Itoa(p.PID) == name })
	}
	switch {
	case len(at) == 0:
		return found, nil, fmt.Errorf("live: no process %q", name)
	case len(at) > 1:
		return found, nil, fmt.Errorf("live: %d processes %q: use the id or the pid", len(at), name)
	}
	for i := at[0]; i > 0; i = all[i].ParentAt {
		path = append([]string{all[i].ID}, path...)
	}
	return all[at[0]], path, nil
}

const root = "root" // the name of the root in paths

// tree answers with the page, or with JSON.
func (h *handler) tree(w http.ResponseWriter, r *http.Request) {
	tree, err := h.looks.look(r.Context())
	if err != nil {
		return // the client has gone
	}
	switch r.FormValue("format") {
	case "json":
		writeJSON(w, tree)
	case "", "html":
		h.page(w, tree)
	default:
		http.Error(w, errFormat.Error(), http.StatusBadRequest)
	}
}

var errFormat = errors.New("live: unknown format")

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// Package live shows the processes of a running program: a page with the tree of
// processes, the stacks of all their goroutines, and their profiles. Mount it in a
// server of your own:
//
//	mux.Handle("/debug/spawnwire/", live.Handler(spawner))
//
// Below that path are
//
//	.                        the tree, as a page, or with ?format=json for programs
//	stacks                   all goroutines of all processes, equal ones together
//	p/NAME/pprof/KIND        a profile of one process: profile?seconds=30, heap, allocs,
//	                         goroutine, block, mutex, threadcreate or trace?seconds=1
//	pprof/KIND               one such profile of all processes, with the labels process
//	                         and pid; there is no common trace
//
// NAME is the id of a process, its name if that is unique, its pid, or "root".
// `spawnwire top` and `spawnwire stacks` show the same in a terminal.
//
// The parent asks its children over their control connections, and they ask theirs. A
// process that does not answer in time is shown as silent, with what its parent knows.
// Children in other languages and programs without the protocol are not asked. While
// nobody looks, this package does nothing.
//
// # Access
//
// Stacks, names and the ends of outputs are confidential, and profiles cost CPU time.
// So give the handler to a server on the loopback interface, or behind authentication.
// The handler refuses requests from other sites, and host names that it does not know;
// see [Config]. The page can change something only with [Config.Authorize].
//
// The import has no effect on a server. It links the profiler into the program, so that
// its processes can answer for profiles.
package live

import (
	"context"
	"embed"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// Config has the settings of a handler. The zero value is ready to use.
type Config struct {
	// Authorize allows a request to stop or restart a child of the Spawner. It
	// returns nil, or an error for the client. A request is a POST to p/NAME/stop or
	// p/NAME/restart. If Authorize is nil, the page cannot change anything.
	Authorize func(*http.Request) error
	// Hosts are the names that the Host header of a request may have, without a port.
	// IP addresses and localhost are always allowed. Any other name is refused,
	// because a website could give its own name to this machine (DNS rebinding).
	Hosts []string
}

// Handler returns a handler for the processes below a Spawner, with the default
// settings.
func Handler(s *forkspawn.Spawner) http.Handler { return Config{}.Handler(s) }

// Handler is like the function Handler, with settings.
func (cfg Config) Handler(s *forkspawn.Spawner) http.Handler {
	return &handler{cfg: cfg, s: s, looks: newLooks(s), streams: make(chan struct{}, maxStreams)}
}

type handler struct {
	cfg     Config
	s       *forkspawn.Spawner
	looks   *looks
	streams chan struct{} // holds a value for each open page
}

//go:embed live.css live.js
var assets embed.FS

// ServeHTTP finds the page by the end of the path, so the handler works below any
// path.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.refuse(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	header := w.Header()
	header.Set("Content-Security-Policy", "default-src 'none'; img-src data:; style-src 'self'; "+
		"script-src 'self'; connect-src 'self'; form-action 'self'; "+
		"frame-ancestors 'none'; base-uri 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	path := strings.Split(r.URL.EscapedPath(), "/")
	end := func(i int) string { // the i-th segment from the end
		if i > len(path) {
			return ""
		}
		s, _ := url.PathUnescape(path[len(path)-i])
		return s
	}
	action := end(3) == "p" && (end(1) == "stop" || end(1) == "restart")
	switch {
	case action && r.Method == http.MethodPost:
		h.act(w, r, end(2), end(1))
	case action || r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case end(4) == "p" && end(2) == "pprof":
		h.profile(w, r, end(3), end(1))
	case end(2) == "pprof":
		h.profiles(w, r, end(1))
	case end(1) == "":
		h.tree(w, r)
	case end(1) == "stacks":
		h.stacks(w, r)
	case end(1) == "events":
		h.events(w, r)
	case end(1) == "live.css", end(1) == "live.js":
		http.ServeFileFS(w, r, assets, end(1))
	default:
		http.NotFound(w, r)
	}
}

// act stops or restarts a child of the Spawner.
func (h *handler) act(w http.ResponseWriter, r *http.Request, name, action string) {
	if h.cfg.Authorize == nil {
		http.Error(w, "live: this page cannot change anything", http.StatusForbidden)
		return
	}
	if err := h.cfg.Authorize(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	p, _, err := h.find(r.Context(), name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	spawner := door(h.s)
	child, again := spawner.Child(p.ID)
	if child == nil || action == "restart" && !again {
		http.Error(w, fmt.Sprintf("live: %s of %q: only of a child of this process, "+
			"and a restart only of a child that a Group runs", action, p.Name),
			http.StatusConflict)
		return
	}
	// The end of the request must not make the stop more forceful.
	ctx := context.WithoutCancel(r.Context())
	if action == "restart" {
		err = spawner.Restart(ctx, child)
	} else {
		_, err = child.Stop(ctx)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, "../../", http.StatusSeeOther)
}

// seconds returns the parameter seconds.
func seconds(r *http.Request, otherwise int) int {
	n, err := strconv.Atoi(r.FormValue("seconds"))
	if err != nil || n <= 0 {
		return otherwise
	}
	return min(n, maxSeconds)
}

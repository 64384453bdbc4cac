package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"time"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/inspect"
	"github.com/spawnwire/spawnwire/internal/wait"
)

func init() { inspect.TakeProfile, inspect.MergeProfiles = takeProfile, mergeProfiles }

const (
	maxSeconds   = 300              // of a profile
	profileBound = 10 * time.Second // for a profile, beside its own time
)

// kind is a kind of profile. Its names are those of net/http/pprof.
type kind struct {
	Name, Path, What string
	seconds          int // without the parameter; 0 for one that takes no time
}

var kinds = []kind{
	{"profile", "profile?seconds=30", "where the process spends CPU time, for 30 seconds", 30},
	{"trace", "trace?seconds=1", "an execution trace of a second, for go tool trace", 1},
	{"heap", "heap", "memory in use", 0},
	{"allocs", "allocs", "all allocations so far", 0},
	{"goroutine", "goroutine", "the stacks of all goroutines", 0},
	{"block", "block", "waits, if the program has set a block profile rate", 0},
	{"mutex", "mutex", "contended mutexes, if the program has set a mutex profile fraction", 0},
	{"threadcreate", "threadcreate", "the creation of threads", 0},
}

// profiles answers with one profile of all processes.
func (h *handler) profiles(w http.ResponseWriter, r *http.Request, what string) {
	if what == "" || what == "trace" {
		http.NotFound(w, r) // traces cannot be merged
		return
	}
	h.answer(w, r, frame.Inspect{What: inspect.Profiles, Name: what}, "all processes")
}

// profile answers with a profile of a process, or with a list of the kinds.
func (h *handler) profile(w http.ResponseWriter, r *http.Request, name, what string) {
	p, path, err := h.find(r.Context(), name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if what == "" {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		pages().ExecuteTemplate(w, "profiles", struct {
			inspect.Process
			Kinds []kind
		}{p, kinds})
		return
	}
	h.answer(w, r, frame.Inspect{What: inspect.Profile, Name: what, Path: path}, p.Name)
}

// answer asks for a profile and sends it. of is its name for people.
func (h *handler) answer(w http.ResponseWriter, r *http.Request, q frame.Inspect, of string) {
	q.Bound = profileBound
	for _, k := range kinds {
		if k.Name == q.Name && k.seconds > 0 {
			q.Time = time.Duration(seconds(r, k.seconds)) * time.Second
		}
	}
	data, err := h.looks.s.Ask(r.Context(), q)
	if err != nil {
		http.Error(w, "live: "+q.Name+" of "+of+": "+err.Error(), http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Header().Set("Content-Disposition",
		"attachment; filename*=UTF-8''"+url.PathEscape(of+"."+q.Name))
	w.Write(data)
}

// takeProfile takes a profile of this process. It ends early with ctx.
func takeProfile(ctx context.Context, q frame.Inspect) ([]byte, error) {
	var b bytes.Buffer
	switch q.Name {
	case "profile":
		if err := pprof.StartCPUProfile(&b); err != nil {
			return nil, err
		}
		wait.For(ctx, nil, q.Time)
		pprof.StopCPUProfile()
	case "trace":
		if err := trace.Start(&b); err != nil {
			return nil, err
		}
		wait.For(ctx, nil, q.Time)
		trace.Stop()
	default:
		p := pprof.Lookup(q.Name)
		if p == nil {
			return nil, fmt.Errorf("no profile %q", q.Name)
		}
		if err := p.WriteTo(&b, 0); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, errors.New("its time was over")
	}
	return b.Bytes(), nil
}

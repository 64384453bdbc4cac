package forkspawn

import (
	"fmt"
	"time"
)

// RestartWhen says after which end of a child a Group starts it anew.
type RestartWhen uint8

const (
	RestartNever     RestartWhen = iota // the zero value
	RestartOnFailure                    // after a failed start, an exit status other than 0, a signal, an unknown status, or an error of its run function
	RestartAlways                       // after success too
)

// Defaults of RestartPolicy.
const (
	DefaultMinPause      = 100 * time.Millisecond
	DefaultMaxPause      = 30 * time.Second
	DefaultRestartLimit  = 5
	DefaultRestartWindow = time.Minute
)

// RestartPolicy says when and how often a child is started anew. Its zero value never does.
type RestartPolicy struct {
	When RestartWhen
	// MinPause is the pause before a restart; it doubles with each restart within Window, up to
	// MaxPause. 0 means the defaults, or the other one where that is beyond the default.
	MinPause, MaxPause time.Duration
	// Limit is how many restarts one child may have within Window; the next end is a
	// failure, with a [*RestartError]. 0 means the default, and a negative Limit none.
	Limit  int
	Window time.Duration // 0 means the default
}

// RestartInfo says why and how a child is started anew.
type RestartInfo struct {
	Restarts int           // within the window, with this one
	Pause    time.Duration // before it
	Cause    error         // how the child failed; nil after success
}

// RestartError is the failure of a child that ended too often.
type RestartError struct {
	Name     string
	Restarts int           // there were so many
	Window   time.Duration // within this time
	Err      error         // the last failure; nil after success
}

func (e *RestartError) Error() string {
	s := fmt.Sprintf("forkspawn: child %q was restarted %d times within %v and ended again", e.Name, e.Restarts, e.Window)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *RestartError) Unwrap() error { return e.Err }

// withDefaults checks p and fills in what it leaves open.
func (p RestartPolicy) withDefaults() (RestartPolicy, error) {
	if p.When > RestartAlways {
		return p, &ConfigError{"Restart.When", fmt.Sprintf("%d is none of RestartNever, RestartOnFailure and RestartAlways", p.When)}
	}
	minPause := DefaultMinPause
	if p.MaxPause > 0 {
		minPause = min(minPause, p.MaxPause)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"MinPause", &p.MinPause, minPause},
		{"MaxPause", &p.MaxPause, max(DefaultMaxPause, p.MinPause)},
		{"Window", &p.Window, DefaultRestartWindow},
	} {
		if *d.value < 0 {
			return p, &ConfigError{"Restart." + d.name, fmt.Sprintf("%v is negative", *d.value)}
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if p.MaxPause < p.MinPause {
		return p, &ConfigError{"Restart.MaxPause", fmt.Sprintf("%v is less than MinPause, %v", p.MaxPause, p.MinPause)}
	}
	if p.Limit == 0 {
		p.Limit = DefaultRestartLimit
	}
	return p, nil
}

// restarts is one child's history. It is used by one goroutine.
type restarts struct {
	policy RestartPolicy
	at     []time.Time // within the window, oldest first
}

// next decides after an end at now, with its failure or nil: whether there is another start, and after which
// pause, or the error that takes its place.
func (r *restarts) next(name string, failure error, now time.Time) (info RestartInfo, again bool, err error) {
	if r.policy.When == RestartNever || (r.policy.When == RestartOnFailure && failure == nil) {
		return info, false, failure
	}
	for len(r.at) > 0 && now.Sub(r.at[0]) >= r.policy.Window {
		r.at = r.at[1:]
	}
	if r.policy.Limit >= 0 && len(r.at) >= r.policy.Limit {
		return info, false, &RestartError{Name: name, Restarts: len(r.at), Window: r.policy.Window, Err: failure}
	}
	pause := r.policy.MinPause
	for range r.at {
		if pause = min(2*pause, r.policy.MaxPause); pause == r.policy.MaxPause {
			break
		}
	}
	r.at = append(r.at, now.Add(pause))
	return RestartInfo{Restarts: len(r.at), Pause: pause, Cause: failure}, true, nil
}

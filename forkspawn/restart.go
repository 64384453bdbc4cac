package forkspawn

import (
	"fmt"
	"time"
)

// RestartWhen is when a [Group] restarts a child.
type RestartWhen uint8

const (
	// RestartNever is the zero value.
	RestartNever RestartWhen = iota
	// RestartOnFailure restarts a child after a failed start, any exit status
	// other than 0, a signal or an unknown status. It also does so after an
	// error of the child's run function.
	RestartOnFailure
	// RestartAlways restarts a child after success, too.
	RestartAlways
)

// Defaults of GroupConfig.
const (
	defaultMinPause    = 100 * time.Millisecond
	defaultMaxPause    = 30 * time.Second
	defaultMaxRestarts = 5
	defaultWindow      = time.Minute
)

// GroupConfig has the settings of a [Group]. The zero GroupConfig is ready to use
// and never restarts a child.
type GroupConfig struct {
	// Restart decides when Group.Go starts a child again.
	Restart RestartWhen
	// MinPause is the pause before a restart. It doubles with each restart
	// within Window, up to MaxPause. The defaults are 0.1 and 30 seconds. A
	// default that contradicts the other field takes that field's value.
	MinPause, MaxPause time.Duration
	// MaxRestarts is how many restarts a child may have within Window. The end
	// after these is a failure with a [*RestartError]. Zero means 5, and a
	// negative value is no limit.
	MaxRestarts int
	Window      time.Duration // zero means a minute
	// Liveness is how long a child may be silent. The group asks each child over its
	// control connection, where the library answers, not the entry. A child that is
	// stopped (SIGSTOP), or whose runtime hangs, does not answer. After that time, or
	// half as much more, the group kills it, and it has failed with
	// [ErrUnresponsive]. Zero asks nothing. A busy machine needs some seconds.
	//
	// Config.WaitForDebugger suspends it. Programs and entries without a control
	// connection are not asked.
	Liveness time.Duration
}

// RestartError is the failure of a child that has ended too often.
type RestartError struct {
	Name     string
	Restarts int // within GroupConfig.Window

	window time.Duration
	err    error // the last failure; nil after success
}

func (e *RestartError) Error() string {
	s := fmt.Sprintf("forkspawn: child %q was restarted %d times within %v and ended again",
		e.Name, e.Restarts, e.window)
	if e.err != nil {
		s += ": " + unprefixed(e.err)
	}
	return s
}

// Unwrap returns the last failure, or nil after success.
func (e *RestartError) Unwrap() error { return e.err }

// withDefaults checks cfg and sets the defaults.
func (cfg GroupConfig) withDefaults() (GroupConfig, error) {
	if cfg.Restart > RestartAlways {
		return cfg, badGroup("Restart",
			"%d is none of RestartNever, RestartOnFailure and RestartAlways", cfg.Restart)
	}
	minPause := defaultMinPause
	if cfg.MaxPause > 0 {
		minPause = min(minPause, cfg.MaxPause)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"MinPause", &cfg.MinPause, minPause},
		{"MaxPause", &cfg.MaxPause, max(defaultMaxPause, cfg.MinPause)},
		{"Window", &cfg.Window, defaultWindow},
		{"Liveness", &cfg.Liveness, 0},
	} {
		if *d.value < 0 {
			return cfg, badGroup(d.name, "%v is negative", *d.value)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if cfg.MaxPause < cfg.MinPause {
		return cfg, badGroup("MaxPause", "%v is less than MinPause, %v", cfg.MaxPause, cfg.MinPause)
	}
	if cfg.MaxRestarts == 0 {
		cfg.MaxRestarts = defaultMaxRestarts
	}
	return cfg, nil
}

// restarts is the history of one child. One goroutine uses it.
type restarts struct {
	cfg GroupConfig
	at  []time.Time // within the window, oldest first
}

// next decides after an end of the child at now. failure is nil after success.
// If again is true, the child is restarted after pause, for the len(r.at)th time.
// Otherwise err is the child's final error, or nil.
func (r *restarts) next(
	name string, failure error, now time.Time,
) (pause time.Duration, again bool, err error) {
	if r.cfg.Restart == RestartNever || (r.cfg.Restart == RestartOnFailure && failure == nil) {
		return 0, false, failure
	}
	for len(r.at) > 0 && now.Sub(r.at[0]) >= r.cfg.Window {
		r.at = r.at[1:]
	}
	if r.cfg.MaxRestarts >= 0 && len(r.at) >= r.cfg.MaxRestarts {
		return 0, false,
			&RestartError{Name: name, Restarts: len(r.at), window: r.cfg.Window, err: failure}
	}
	pause = r.cfg.MinPause
	for range r.at {
		if pause = min(2*pause, r.cfg.MaxPause); pause == r.cfg.MaxPause {
			break
		}
	}
	r.at = append(r.at, now.Add(pause))
	return pause, true, nil
}

package forkspawn

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// Defaults of Config.
const (
	DefaultBootTimeout   = 30 * time.Second
	DefaultWarmUpTimeout = 10 * time.Minute
	DefaultStopGrace     = 5 * time.Second
	DefaultTermGrace     = 2 * time.Second
)

// ErrClosed is the error of a Spawner that was closed.
var ErrClosed = errors.New("spawner closed")

// Config has the settings of a Spawner. Its zero value is ready to use: children of this very
// program, over a Unix socket in a private directory.
type Config struct {
	// Name is what this process calls itself to its children; "" is the program's name.
	Name string
	// Method is the start method; "" is MethodExec.
	Method string
	// WarmUp is the name of what a template of MethodForkserver does before it forks children, once; see RegisterWarmUp.
	// "" is nothing but the program's own package inits.
	WarmUp string
	// WarmUpTimeout bounds the start of such a template until it can fork; 0 is DefaultWarmUpTimeout. One that takes longer is
	// killed, which is a [*TemplateError] of the Spawns that wait for it, and the next starts another. A Spawn waits for it no
	// longer than BootTimeout, and so a program with a long warm-up calls Spawner.Warm first.
	WarmUpTimeout time.Duration
	// ForkserverFallback has children executed, as with MethodExec, where MethodForkserver cannot be had, and the Logger told so once.
	// Otherwise that is an error: of New on other platforms, of Spawn, a [*MethodError], where the template finds out.
	ForkserverFallback bool
	// Starter, when not nil, starts the children instead of StartProcess.
	Starter Starter
	// Command is the program that Spawn starts; the zero Command is this program.
	Command Command
	// Listen is where children connect: zero is a Unix socket in a private directory, made for this
	// Spawner and removed with it (package transport/uds). "tcp://127.0.0.1:0" is TCP on this machine,
	// "uds:///path" and "uds://@name" are a socket of the caller's choice. "tls://192.0.2.7:0" is TLS for children
	// on other machines, with a certificate that this Spawner makes and its children know by what they get at
	// launch; both programs must import package transport/tls for it.
	Listen transport.Addr
	// Advertise is the tcp or tls address to which children connect, where that is not the one on which the Spawner
	// listens: it must be set when that is 0.0.0.0 or [::]. Port 0 is the port of Listen.
	Advertise transport.Addr
	// AllowUnencryptedTCP allows tcp in Listen and Advertise for other addresses than the loopback's. Whoever is on the
	// way can then read what parent and child say, orders and messages, and change all that follows the handshake.
	AllowUnencryptedTCP bool

	// Stdin, Stdout and Stderr are the children's standard streams. The defaults are the null device,
	// this process's own stdout, and a captured stderr that is passed on to this process's own.
	Stdin, Stdout, Stderr Stream

	// Spares is how many children of Command are kept started and waiting for their spec, so that Spawn need not wait
	// for the start of a process. New begins to start them, Spawner.Warm waits until they are there, and each that Spawn
	// has taken is replaced in the background, by as many starts at the same time as there are CPUs and four at most. A
	// spare is a process, and holds here what a child does.
	//
	// Spawn takes the newest one that lives, and starts a process as ever when there is none. So it does for a spec with
	// a Dir, and for another command: a spare has the directory and the environment that this process had when
	// the spare was started. Spares that cannot be started, or die as they wait, are tried again after a pause that
	// doubles from 0.1 to 30 seconds; the Logger is told once a minute at most. Children does not list spares, and Trace
	// knows one from when a Spawn that took it returns. MethodInProcess has none.
	Spares int

	// BootTimeout bounds a child's start until it is ready; 0 is DefaultBootTimeout. It is there to end
	// a wait that nothing else ends: a slow machine is not a dead child.
	BootTimeout time.Duration
	// StopGrace is how long Stop waits after it has asked a child to stop before it sends SIGTERM, and
	// TermGrace how long after that before it sends SIGKILL. 0 means the defaults or, in a process that was itself
	// spawned, half and a quarter of its own parent's StopGrace where that is less: so a parent's
	// patience always exceeds that of its children with theirs. Once that parent has asked this process to stop,
	// these fractions of what it then waits bound the graces whatever is set here.
	StopGrace, TermGrace time.Duration
	// NoParentDeathSignal leaves out PR_SET_PDEATHSIG, by which Linux kills the children when this
	// process dies. They end then when they notice that their connection has.
	NoParentDeathSignal bool

	// Limit is the largest frame of the children's channels, in bytes; 0 is transport.DefaultLimit.
	Limit int
	// HelloTimeout and MaxPending bound strangers on the socket; see handshake.ListenerConfig.
	HelloTimeout time.Duration
	MaxPending   int
	// AllowOtherUsers lets in children that run as another user, and AllowOtherProcesses such as are neither the
	// process that was started nor shown to descend from it. Both are about Unix sockets; see
	// handshake.ListenerConfig, and docs/SECURITY.md.
	AllowOtherUsers, AllowOtherProcesses bool
	// Subreaper makes this process the reaper of what its children leave behind (Linux: PR_SET_CHILD_SUBREAPER in
	// prctl(2)). What is left in a child's process group is killed in any case; a process that has left the
	// group, as setsid(1) or a daemon does, becomes a child of this one then, and is killed when the
	// child that it descends from has ended. It is known by the environment variable SPAWNWIRE_TREE, which
	// the children get and hand on; a process without it is left alone. With it this process
	// also reaps zombies that nothing else in it has waited for within ten seconds. Elsewhere New's error matches
	// errors.ErrUnsupported.
	Subreaper bool
	// WaitForDebugger lets a child be as long as a debugger holds it (Linux): neither BootTimeout nor the
	// graces of a stop have force used on it then, and WarmUpTimeout has none used on a template. A context that ends, and Hasten, still have.
	WaitForDebugger bool
	// Logger gets what is worth a line; nil logs nothing. Debug is the usual course of a child's
	// life; Info is a restart of a child that ended well; Warn is force, a failure that no caller is told of, and a refused connection; Error is
	// what could not be ended.
	Logger *slog.Logger
	// Trace, if not nil, is called as children live and die.
	Trace *Trace
}

// ConfigError says which field of a Config is wrong.
type ConfigError struct {
	Field  string
	Reason string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("forkspawn: Config.%s: %s", e.Field, e.Reason)
}

// withDefaults checks cfg and fills in what it leaves open.
func (cfg Config) withDefaults() (Config, error) {
	stopGrace, termGrace := DefaultStopGrace, DefaultTermGrace
	if p := ownParent.Load(); p != nil && p.Spec.Grace > 0 {
		stopGrace, termGrace = min(stopGrace, p.Spec.Grace/2), min(termGrace, p.Spec.Grace/4)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"BootTimeout", &cfg.BootTimeout, DefaultBootTimeout},
		{"WarmUpTimeout", &cfg.WarmUpTimeout, DefaultWarmUpTimeout},
		{"StopGrace", &cfg.StopGrace, stopGrace},
		{"TermGrace", &cfg.TermGrace, termGrace},
		{"HelloTimeout", &cfg.HelloTimeout, 0},
	} {
		if *d.value < 0 {
			return cfg, &ConfigError{d.name, fmt.Sprintf("%v is negative", *d.value)}
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if cfg.Limit < 0 {
		return cfg, &ConfigError{"Limit", fmt.Sprintf("%d is negative", cfg.Limit)}
	}
	if cfg.MaxPending < 0 {
		return cfg, &ConfigError{"MaxPending", fmt.Sprintf("%d is negative", cfg.MaxPending)}
	}
	if cfg.Spares < 0 {
		return cfg, &ConfigError{"Spares", fmt.Sprintf("%d is negative", cfg.Spares)}
	}
	if cfg.Stdin.mode == streamCapture {
		return cfg, &ConfigError{"Stdin", "cannot be captured; use File with a pipe's read end"}
	}
	if cfg.Method == "" {
		cfg.Method = MethodExec
	}
	if cfg.Starter == nil {
		if cfg.Method == MethodForkserver && cfg.ForkserverFallback && !canFork {
			cfg.Method = MethodExec
			if cfg.Logger != nil {
				cfg.Logger.Warn("forkspawn: children are executed, as they cannot be forked", "error", checkMethod(MethodForkserver, canExec, canFork))
			}
		}
		if err := checkMethod(cfg.Method, canExec, canFork); err != nil {
			return cfg, err
		}
		if _, err := warmUpOf(cfg.WarmUp); cfg.Method == MethodForkserver && cfg.Command.Path == "" && err != nil {
			return cfg, &ConfigError{"WarmUp", err.Error()}
		}
		if cfg.Method == MethodInProcess && cfg.Spares > 0 {
			return cfg, &ConfigError{"Spares", `the start method "inprocess" starts no process that could wait; use 0`}
		}
	}
	if err := cfg.checkAdvertise(); err != nil {
		return cfg, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg, nil
}

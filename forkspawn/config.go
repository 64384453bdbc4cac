package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template"
	"github.com/spawnwire/spawnwire/transport"
)

// Defaults of Config.
const (
	defaultBootTimeout   = 30 * time.Second
	defaultWarmUpTimeout = 10 * time.Minute
	defaultStopGrace     = 5 * time.Second
	defaultTermGrace     = 2 * time.Second
)

// Config has the settings of a [Spawner]. The zero Config is ready to use: its
// children run this very program and connect over a Unix socket in a private
// directory.
type Config struct {
	// Name is the name of this process for its children. "" is the program's
	// name.
	Name string
	// Method is the start method. "" is MethodExec.
	Method Method
	// Start starts the children. If it is nil, StartProcess does.
	//
	// The Spawner calls Start from one goroutine at a time. That goroutine is
	// locked to one operating system thread during the Spawner's life. Start
	// returns when the process is running or could not be started. If the child
	// connects before, it waits for at most HelloTimeout. The files in attr
	// remain the caller's.
	Start func(ctx context.Context, attr ProcessAttr) (Process, error)
	// Command is the program that Spawn starts. The zero Command is this
	// program.
	Command Command

	// WarmUp is the name of a function given to RegisterWarmUp. The template
	// of MethodForkserver calls it once, before it forks children. "" is no
	// function.
	WarmUp string
	// WarmUpTimeout bounds the time from a template's start until it can
	// fork. Zero is 10 minutes. A template that takes longer is
	// killed. The calls of Spawn that wait for it return a [*ExitError],
	// and the next call starts another template. A Spawn waits for a template
	// no longer than BootTimeout, so a program with a long warm-up calls
	// Spawner.AwaitTemplate first.
	WarmUpTimeout time.Duration
	// ForkserverFallback uses MethodExec where MethodForkserver is not
	// available, and logs that once. Without it, New returns a [*ConfigError]
	// on other platforms, and Spawn does if the template finds out.
	ForkserverFallback bool
	// ForkserverAnyGo uses MethodForkserver also with a minor version of Go that
	// has not passed the soak of this version of the library, and logs that once.
	// On linux/arm64 none has passed yet. Without it, CheckForkserver and Spawn
	// return a [*ConfigError] with the versions that have passed.
	// docs/design/175-go-versions.md has the command.
	ForkserverAnyGo bool

	// Listen is the address at which the Spawner listens for its children:
	//
	//   - zero: a Unix socket in a private directory. New makes the directory,
	//     and Close removes it.
	//   - "uds:///path" or "uds://@name": a Unix socket of the caller's choice.
	//   - "tcp://127.0.0.1:0": TCP on this machine.
	//   - "tls://192.0.2.7:0": TLS, for children on other machines. The Spawner
	//     makes a certificate, and its children get the certificate's hash at
	//     their start. Both programs must import package transport/tls.
	Listen transport.Addr
	// Advertise is the tcp or tls address to which children connect, if that
	// is not the address of Listen. It is required if Listen is 0.0.0.0 or
	// [::]. Port 0 is the port of Listen.
	Advertise transport.Addr
	// AllowUnencryptedTCP allows tcp in Listen and Advertise for other
	// addresses than the loopback's. Anybody on the network path can then read
	// the specs and the messages, and change all bytes after the handshake.
	AllowUnencryptedTCP bool

	// Stdin, Stdout and Stderr are the children's standard streams. WithStdin,
	// WithStdout and WithStderr set those of one child. The defaults are the null
	// device, this process's own stdout, and a captured stderr that is copied to
	// this process's own.
	Stdin, Stdout, Stderr Stream

	// Spares is the number of children of Command to keep started in reserve.
	// With a spare, Spawn need not wait for the start of a process. New begins
	// to start them. Each spare that Spawn takes is replaced in the background.
	// At most four spares, and at most as many as there are CPUs, are started
	// at the same time. A spare holds the same resources as a child.
	// MethodInProcess has no spares.
	//
	// Spawn takes the newest living spare. Without one it starts a process. It
	// also does so for a spec with a Dir, and for another command. The
	// directory and the environment of a spare were fixed at its start.
	//
	// If spares cannot be started or die while waiting, the Spawner retries
	// after a pause. The pause doubles from 0.1 to 30 seconds, and the failure
	// is logged at most once a minute. Children does not list spares. Trace
	// reports a spare after a Spawn has taken it.
	Spares int

	// BootTimeout bounds a child's start until it is ready. Zero is 30 seconds.
	// It is there to end a wait that nothing else ends: a slow machine is not a
	// dead child.
	BootTimeout time.Duration
	// StopGrace is how long Stop waits for a child to exit after asking it to.
	// Then Stop sends SIGTERM to the child's process group, waits for
	// TermGrace, and sends SIGKILL. Zero means 5 and 2 seconds.
	//
	// In a process that was itself spawned, the defaults are at most a half
	// and a quarter of its parent's StopGrace. After this parent has asked the
	// process to stop, the same parts of the parent's remaining grace bound
	// both values. So a process tree stops from its leaves up.
	StopGrace, TermGrace time.Duration
	// NoParentDeathSignal omits PR_SET_PDEATHSIG, which lets Linux kill the
	// children when this process dies. Without it they end when they notice
	// the end of their connection.
	NoParentDeathSignal bool
	// Subreaper also kills processes that have left a child's process group,
	// such as daemons, when the child has ended. It is for Linux only;
	// elsewhere New's error matches errors.ErrUnsupported.
	//
	// This process becomes the parent of such orphans (PR_SET_CHILD_SUBREAPER
	// in prctl(2)), and recognizes them by the environment variable
	// SPAWNWIRE_TREE. It neither kills nor reaps other processes: another part
	// of this program may have started them. So an orphan that nobody saw alive
	// can stay a zombie until this process ends. New fails if /proc shows another
	// PID namespace than this process's.
	Subreaper bool
	// WaitForDebugger suspends BootTimeout, WarmUpTimeout, StopGrace and
	// TermGrace while a debugger is attached to the process (Linux only). The
	// end of a context and Hasten still take effect.
	WaitForDebugger bool

	// MaxFrameSize is the largest frame of the children's channels, in bytes;
	// 0 is transport.DefaultMaxFrameSize. Children use it too, unless their
	// program sets a limit of its own (JoinConfig.MaxFrameSize).
	MaxFrameSize int
	// Ring lets all messages travel through a ring in shared memory, on Linux over a
	// Unix socket and if the child supports it. It takes much less time for small
	// messages, and 512 KiB for each child; see [transport.Channel.UsesRing]. After the
	// first messages Child.Conn and Parent.Conn fail.
	Ring bool
	// HelloTimeout and MaxPending bound unauthenticated clients of the socket;
	// see handshake.ListenerConfig.
	HelloTimeout time.Duration
	MaxPending   int
	// AllowOtherUsers accepts children that run as another user. All users of
	// the machine can connect to the socket then.
	// AllowOtherProcesses accepts children that are neither the started
	// process nor a known descendant of it. Both are about Unix sockets; see
	// handshake.ListenerConfig and docs/threat-model.md.
	AllowOtherUsers, AllowOtherProcesses bool

	// Logger logs the children's lives. If it is nil, nothing is logged.
	// Debug is the level of normal events, and Info of a restart after
	// success. Warn is the level of force, of refused connections, and of
	// failures without a caller. Error means that a process could not be
	// ended.
	Logger *slog.Logger
	// Trace has functions that are called as children live and die. It may be
	// nil.
	Trace *Trace
}

// ConfigError reports an invalid field of a [Config] or a [GroupConfig].
type ConfigError struct {
	Field  string
	Reason string

	of  string // the type of the field; "" is Config
	err error
}

func (e *ConfigError) Error() string {
	of := e.of
	if of == "" {
		of = "Config"
	}
	return "forkspawn: " + of + "." + e.Field + ": " + e.Reason
}

// Unwrap returns the cause, or nil. For the field Method it is one of the ErrMethod
// errors.
func (e *ConfigError) Unwrap() error { return e.err }

// badField returns the error of an invalid field of Config.
func badField(field, reason string, args ...any) error {
	return &ConfigError{Field: field, Reason: fmt.Sprintf(reason, args...)}
}

// badGroup returns the error of an invalid field of GroupConfig.
func badGroup(field, reason string, args ...any) error {
	return &ConfigError{Field: field, Reason: fmt.Sprintf(reason, args...), of: "GroupConfig"}
}

// withDefaults checks cfg and sets the defaults.
func (cfg Config) withDefaults() (Config, error) {
	stopGrace, termGrace := defaultStopGrace, defaultTermGrace
	if p := ownParent.Load(); p != nil && p.spec.Grace > 0 {
		stopGrace, termGrace = min(stopGrace, p.spec.Grace/2), min(termGrace, p.spec.Grace/4)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"BootTimeout", &cfg.BootTimeout, defaultBootTimeout},
		{"WarmUpTimeout", &cfg.WarmUpTimeout, defaultWarmUpTimeout},
		{"StopGrace", &cfg.StopGrace, stopGrace},
		{"TermGrace", &cfg.TermGrace, termGrace},
		{"HelloTimeout", &cfg.HelloTimeout, 0},
	} {
		if *d.value < 0 {
			return cfg, badField(d.name, "%v is negative", *d.value)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"MaxFrameSize", cfg.MaxFrameSize}, {"MaxPending", cfg.MaxPending}, {"Spares", cfg.Spares}} {
		if n.value < 0 {
			return cfg, badField(n.name, "%d is negative", n.value)
		}
	}
	if err := checkStreams(cfg.Stdin, cfg.Stdout, cfg.Stderr); err != nil {
		return cfg, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Method == "" {
		cfg.Method = MethodExec
	}
	if cfg.Start == nil {
		if err := cfg.resolveMethod(); err != nil {
			return cfg, err
		}
	}
	return cfg, badAddress(cfg.addresses().Check())
}

// resolveMethod checks Method and the fields about it, and falls back to
// MethodExec where that is allowed.
func (cfg *Config) resolveMethod() error {
	err := checkMethod(cfg.Method, osproc.CanExec, template.Supported)
	if cfg.Method == MethodForkserver && cfg.ForkserverFallback && !template.Supported {
		cfg.Logger.Warn("forkspawn: children are executed, as they cannot be forked", "error", err)
		cfg.Method = MethodExec
		err = checkMethod(cfg.Method, osproc.CanExec, template.Supported)
	}
	if err != nil {
		return err
	}
	if _, err := warmUpOf(cfg.WarmUp); cfg.Method == MethodForkserver &&
		cfg.Command.Path == "" && err != nil {
		return badField("WarmUp", "%v", err)
	}
	if cfg.Method == MethodInProcess && cfg.Spares > 0 {
		return badField("Spares",
			`the start method "inprocess" starts no process that could wait; use 0`)
	}
	return nil
}

// Method is a start method, for [Config.Method].
type Method string

const (
	// MethodExec is fork and exec, of this program or any other. It is the
	// default.
	MethodExec Method = "exec"

	// MethodInProcess runs the entry in a goroutine of this process, connected
	// by a socket pair. It is for debugging and for fast unit tests. The API
	// is the same, with these differences:
	//
	//   - There is no process, and PID returns 0.
	//   - Config.Listen, Stdin and Stdout have no effect. A command, or a spec
	//     with a Dir, is an error.
	//   - A panic ends the entry alone, with status 2, and its stack goes to
	//     the child's stderr.
	//   - SIGTERM and SIGKILL end the entry's context and cut its connection.
	//     An entry that ignores both cannot be ended, and Stop returns an
	//     error.
	//   - If the entry calls os.Exit, the whole program ends.
	MethodInProcess Method = "inprocess"

	// MethodForkserver forks children from a template, without exec. The
	// template is a process of this program that has called the function of
	// Config.WarmUp once. A child begins with the template's memory, and both
	// share each page until one of them writes to it. It needs linux/amd64, or
	// linux/arm64 with ForkserverAnyGo, and a program built with CGO_ENABLED=0; see
	// RegisterWarmUp.
	MethodForkserver Method = "forkserver"

	methodLivefork Method = "livefork"
)

// The reasons why a start method is not available. They are in the chain of a
// [*ConfigError].
var (
	ErrMethodUnknown     = errors.New("no such start method")
	ErrMethodReserved    = errors.New("the name is reserved for a later version")
	ErrMethodUnavailable = errors.New("not available on this platform")
)

// errUnsupported returns an error that matches ErrMethodUnavailable and
// errors.ErrUnsupported.
func errUnsupported() error {
	return fmt.Errorf("%w: %w", ErrMethodUnavailable, errors.ErrUnsupported)
}

// badMethod returns the error of a start method that is not available. err is one
// of the ErrMethod errors, and remedy is what to use instead.
func badMethod(name Method, err error, remedy string) error {
	return &ConfigError{Field: "Method",
		Reason: fmt.Sprintf("start method %q: %v; %s", name, err, remedy), err: err}
}

const useExec = `use "exec"`

// checkMethod returns an error for a method that does not exist, is reserved, or
// is not available on a platform with these abilities.
func checkMethod(name Method, canExec, canFork bool) error {
	const useInProcess = `"inprocess" works, and so do packages transport and handshake`
	switch name {
	case MethodExec:
		if !canExec {
			return badMethod(name, errUnsupported(), useInProcess)
		}
		return nil
	case MethodInProcess:
		return nil
	case MethodForkserver:
		if !canFork {
			return badMethod(name, errUnsupported(), useExec)
		}
		return nil
	case methodLivefork:
		return badMethod(name, ErrMethodReserved,
			`the Go runtime cannot fork while it runs (golang/go#77032), "forkserver" takes its place; `+useExec)
	}
	return badMethod(name, ErrMethodUnknown, useExec)
}

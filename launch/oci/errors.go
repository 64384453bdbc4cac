package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spawnwire/spawnwire/launch/internal/session"
)

// Causes of an [Error].
var (
	// ErrDaemon: the engine's daemon is not running or cannot be reached.
	ErrDaemon = errors.New("the engine's daemon cannot be reached")
	// ErrImage: there is no such image, here or in its registry, or the registry has
	// refused it.
	ErrImage = errors.New("the image is missing")
	// ErrPlatform: the program is one for another processor or system.
	ErrPlatform = errors.New("the program is not one for this platform")
	// ErrNotStatic: the image lacks the loader that the program needs.
	ErrNotStatic = errors.New("the image lacks the program's loader; " +
		"build the program with CGO_ENABLED=0")
	// ErrStart: the engine has not started the container, for another reason.
	ErrStart = errors.New("the container has not started")
	// ErrLost: the container has ended before the child, or the engine's program has.
	ErrLost = errors.New("the container is lost")
	// ErrMemory: the kernel has killed the child for lack of memory. The error is found
	// in the child's [forkspawn.ExitError], and not in an Error.
	ErrMemory = session.ErrMemory
)

// Error is the error of a start in a container, and of a child whose container is lost.
//
// errors.Is finds one of the causes above, or fs.ErrPermission. If there is no engine on
// this machine, the error of Launch matches fs.ErrNotExist and names it.
type Error struct {
	Engine string // podman, docker, runc or crun
	From   string // as in Launcher.Image or Launcher.Bundle
	Stderr string // the last lines of the engine's stderr

	err error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("oci: %s: %s: %v", e.Engine, e.From, e.err)
	if reason := reasonIn(e.Stderr); reason != "" {
		s += fmt.Sprintf("; %s says %q", e.Engine, reason)
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// reasonIn returns the last line of an engine's stderr that is not an advice.
func reasonIn(s string) (reason string) {
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		switch word, _, _ := strings.Cut(line, " "); word {
		case "", "See", "Run", "Try", "Usage:":
		default:
			reason = line
		}
	}
	return reason
}

// texts are texts of the engines, which do not translate them. The first that is found
// decides.
var texts = []struct {
	text string
	err  error
}{
	{"permission denied while trying to connect", fs.ErrPermission},
	{"annot connect to the Docker daemon", ErrDaemon},
	{"failed to connect to the docker API", ErrDaemon},
	{"annot connect to Podman", ErrDaemon},
	{"unable to connect to Podman", ErrDaemon},
	{"xec format error", ErrPlatform},
	{inside + ": no such file or directory", ErrNotStatic},
	{inside + "`: No such file or directory", ErrNotStatic},
	{"permission denied", fs.ErrPermission},
	{"Permission denied", fs.ErrPermission},
	{"operation not permitted", fs.ErrPermission},
	{"Operation not permitted", fs.ErrPermission},
	{"rootless container requires", fs.ErrPermission},
	{"No such image", ErrImage},
	{"image not known", ErrImage},
	{"did not resolve to an alias", ErrImage},
	{"pull access denied", ErrImage},
	{"manifest unknown", ErrImage},
	{"initializing source", ErrImage},
	{"invalid reference format", ErrImage},
}

// error returns an Error with a cause.
func (b *box) error(cause error) error {
	return &Error{Engine: b.engine, From: b.from, Stderr: b.Words(), err: cause}
}

// failed returns the error of a container whose supervisor has not answered because of
// cause.
func (b *box) failed(cause error) error {
	status, ended := b.Ended()
	words := b.Words()
	for _, t := range texts {
		if ended && strings.Contains(words, t.text) {
			return b.error(t.err)
		}
	}
	// docker says this also before a pull that succeeds.
	if ended && status.Code() == exitEngine && strings.Contains(words, "Unable to find image") {
		return b.error(ErrImage)
	}
	if ended {
		return b.error(fmt.Errorf("%w: %s has ended: %v", ErrStart, b.engine, status))
	}
	return b.error(fmt.Errorf("%w: no greeting: %w", ErrStart, cause))
}

// exitEngine is the exit code of podman and docker if they have not started a container.
const exitEngine = 125

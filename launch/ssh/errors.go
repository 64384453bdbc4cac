package ssh

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Causes of an [Error].
var (
	// ErrHostKey: ssh does not know the key of the host, or knows another one.
	ErrHostKey = errors.New("the host key cannot be verified")
	// ErrLogin: the host has refused the user or all keys.
	ErrLogin = errors.New("the login was refused")
	// ErrUnreachable: the host has no such name or address, or nothing answers there.
	ErrUnreachable = errors.New("the host cannot be reached")
	// ErrPlatform: there is no program for the host's system or processor.
	ErrPlatform = errors.New("no program for this platform")
	// ErrNoExec: the cache directory is on a file system without execution.
	ErrNoExec = errors.New("programs there cannot be executed")
	// ErrProgramMissing: the host lacks sh, uname, head or another program of POSIX,
	// or the loader of a program that is not static.
	ErrProgramMissing = errors.New("a program is missing")
	// ErrGreeting: the host has sent too much other output, or has ended, before the
	// greeting.
	ErrGreeting = errors.New("no greeting")
	// ErrLost: the connection has ended before the child.
	ErrLost = errors.New("the connection is lost")
)

// Error is the error of a start on a host, and of a child whose connection is lost.
//
// errors.Is finds one of the causes above, or the system's error for the cache
// directory: syscall.ENOSPC, EDQUOT, EROFS or EACCES. If there is no ssh on this
// machine, the error of Launch matches fs.ErrNotExist and names it.
type Error struct {
	Host   string // as in Host.Name
	Thing  string // the platform, directory or program of the cause, or ""
	Stderr string // the last lines of ssh's stderr

	err error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("ssh: host %s: ", e.Host)
	if e.Thing != "" {
		s += e.Thing + ": "
	}
	s += e.err.Error()
	if last := lastLine(e.Stderr); last != "" {
		s += fmt.Sprintf("; ssh says %q", last)
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// lastLine returns the last line of a text that is not empty.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}

// sshTexts are texts of OpenSSH's client, which does not translate them.
var sshTexts = []struct {
	text string
	err  error
}{
	{"Host key verification failed", ErrHostKey},
	{"REMOTE HOST IDENTIFICATION HAS CHANGED", ErrHostKey},
	{"No matching host key fingerprint", ErrHostKey},
	{"Permission denied (", ErrLogin},
	{"Too many authentication failures", ErrLogin},
	{"Could not resolve hostname", ErrUnreachable},
	{"Connection refused", ErrUnreachable},
	{"Connection timed out", ErrUnreachable},
	{"Operation timed out", ErrUnreachable},
	{"No route to host", ErrUnreachable},
	{"Network is unreachable", ErrUnreachable},
	{"kex_exchange_identification", ErrUnreachable},
}

// cacheTexts are texts of programs that use the cache directory.
var cacheTexts = []struct {
	text string
	err  error
}{
	{"No space left on device", syscall.ENOSPC},
	{"Disk quota exceeded", syscall.EDQUOT},
	{"Read-only file system", syscall.EROFS},
	{"Permission denied", syscall.EACCES},
	{"Not a directory", syscall.ENOTDIR},
}

// Exit codes of a shell that cannot execute a program, and of ssh itself.
const (
	exitCannotExecute = 126
	exitNotFound      = 127
	exitSSH           = 255
)

// beforeGreeting returns the error of a connection with no greeting. code is the exit
// code of ssh, or -1.
func (h *Host) beforeGreeting(code int, stderr string) error {
	e := &Error{Host: h.Name, Stderr: stderr, err: ErrGreeting}
	switch code {
	case exitSSH:
		for _, t := range sshTexts {
			if strings.Contains(stderr, t.text) {
				e.err = t.err
				break
			}
		}
	case exitCannotExecute:
		e.err = ErrNoExec
	case exitNotFound:
		e.err = ErrProgramMissing
	}
	return e
}

// answered returns the error of a line of the script, with the word and the rest.
func (h *Host) answered(word, rest, stderr string) error {
	e := &Error{Host: h.Name, Thing: rest, Stderr: stderr}
	switch word {
	case "platform":
		e.Thing = platformOf(rest)
		e.err = fmt.Errorf("%w; name one in Host.Programs", ErrPlatform)
	case "noexec":
		e.err = ErrNoExec
	case "foreign":
		e.err = fmt.Errorf("it belongs to another user: %w", syscall.EACCES)
	case "lacks":
		e.err = ErrProgramMissing
	case "fail":
		var text string
		e.Thing, text, _ = strings.Cut(rest, ": ")
		e.err = cacheError(text)
	default:
		e.Thing, e.err = "", fmt.Errorf("%w: %q", ErrGreeting, word)
	}
	return e
}

// cacheError returns the error of a failed upload.
func cacheError(text string) error {
	for _, t := range cacheTexts {
		if strings.Contains(text, t.text) {
			return t.err
		}
	}
	switch {
	case strings.Contains(text, "not found"):
		return fmt.Errorf("%w: %s", ErrProgramMissing, text)
	case text == "":
		return errors.New("the program arrived incomplete")
	}
	return errors.New(text)
}

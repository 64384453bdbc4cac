package call

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/spawnwire/spawnwire/internal/cbor"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/neterr"
)

// Code is the kind of an [Error], for programs. A handler may return an Error with a
// code of its own. The codes of this package are those below.
type Code string

// The codes of this package.
const (
	CodeFailed        Code = "failed"        // the handler returned another error
	CodeCanceled      Code = "canceled"      // the call was cancelled
	CodeDeadline      Code = "deadline"      // the call's deadline passed
	CodePanic         Code = "panic"         // the handler panicked
	CodeUnimplemented Code = "unimplemented" // the peer has no such method
	CodeInvalid       Code = "invalid"       // a message did not fit its type
	CodeTooLarge      Code = "too-large"     // a message was over the receiver's limit
	CodeDraining      Code = "draining"      // the peer takes no new calls
	CodeConnection    Code = "connection"    // the connection ended before the result came
)

// The causes of an [Error] that errors.Is finds.
var (
	// ErrClosed: this side closed the Conn or the stream. Send and Recv of a closed
	// stream return it as it is, without an Error.
	ErrClosed = errors.New("closed by this side")

	// ErrDraining: the call did not begin, because one of the sides takes no new
	// calls. It is safe to make it elsewhere.
	ErrDraining error = drainingError{}

	// ErrStillRunning: the call was cancelled, but its result did not come in time.
	// So the handler may still run.
	ErrStillRunning = errors.New("the peer has not confirmed the end of the call, it may still run")

	// ErrProtocol: the peer violated the protocol of calls.
	ErrProtocol = errors.New("protocol violation")
)

type drainingError struct{}

func (drainingError) Error() string        { return "the connection takes no new calls" }
func (drainingError) Is(target error) bool { return target == neterr.ErrEnding }

// Error is the error of a call. errors.Is finds the errors that the other process
// returned if both processes know them: those of [RegisterError], the errors of
// contexts, io.EOF, fs.ErrNotExist and the like, and a syscall.Errno.
//
// If a process dies after the deadline of a call, and its handler had not returned, the
// error matches both context.DeadlineExceeded and the process's *forkspawn.ExitError.
//
// A handler may return an Error to set its code.
type Error struct {
	Code Code
	Text string

	// Path has the methods on the way of the error. The first is the method of this
	// process's own call.
	Path []string

	// CanceledBy is the process that cancelled the call, or empty. In a chain of
	// calls it is the first one to cancel. It is the callee if that was stopped.
	CanceledBy string

	// Stack is the stack of a handler's panic, or empty.
	Stack string

	causes []error
}

func (e *Error) Error() string {
	if len(e.Path) == 0 {
		return "call: " + e.Text
	}
	return "call: " + e.Path[0] + ": " + e.Text
}

// Unwrap returns the causes known to this process.
func (e *Error) Unwrap() []error { return e.causes }

// CancelError is the cause of a handler's context if the caller has cancelled the
// call. It matches context.Canceled.
type CancelError struct {
	By     string // the first process to cancel
	Reason string // the text of the caller's [context.Cause], for people
}

func (e *CancelError) Error() string { return "cancelled by " + e.By + ": " + e.Reason }

// Is reports whether target is context.Canceled.
func (e *CancelError) Is(target error) bool { return target == context.Canceled }

// known has the errors with a name in all processes.
var known = struct {
	sync.RWMutex // guards the rest
	names        []string
	errs         map[string]error
}{errs: map[string]error{}}

func init() {
	for _, e := range []struct {
		name string
		err  error
	}{
		{"context.Canceled", context.Canceled},
		{"context.DeadlineExceeded", context.DeadlineExceeded},
		{"io.EOF", io.EOF},
		{"io.ErrUnexpectedEOF", io.ErrUnexpectedEOF},
		{"io.ErrClosedPipe", io.ErrClosedPipe},
		{"fs.ErrInvalid", fs.ErrInvalid},
		{"fs.ErrPermission", fs.ErrPermission},
		{"fs.ErrExist", fs.ErrExist},
		{"fs.ErrNotExist", fs.ErrNotExist},
		{"fs.ErrClosed", fs.ErrClosed},
		{"net.ErrClosed", net.ErrClosed},
		{"os.ErrDeadlineExceeded", os.ErrDeadlineExceeded},
		{"os.ErrProcessDone", os.ErrProcessDone},
		{"errors.ErrUnsupported", errors.ErrUnsupported},
		{"call.ErrDraining", ErrDraining},
		{"call.ErrStillRunning", ErrStillRunning},
	} {
		RegisterError(e.name, e.err)
	}
}

// RegisterError gives an error a name, so that errors.Is finds err in the error of a
// call whose handler returned it in another process, also as the cause of another
// error. Both programs must register it. A program that calls forkspawn.Init does so
// before that. RegisterError panics if the name is empty or taken.
func RegisterError(name string, err error) {
	known.Lock()
	defer known.Unlock()
	if name == "" || err == nil || known.errs[name] != nil {
		panic("call: RegisterError of " + name + " without a name, twice, or with a nil error")
	}
	known.names = append(known.names, name)
	known.errs[name] = err
}

// localError is the error of a call that failed on this side.
func localError(method string, code Code, err error) *Error {
	return &Error{Code: code, Text: err.Error(), Path: []string{method}, causes: []error{err}}
}

// toError returns err as an Error for the peer, without the causes.
func toError(err error) *Error {
	e := &Error{Code: CodeFailed, Text: err.Error()}
	var cancel *CancelError
	if errors.As(err, &cancel) {
		e.CanceledBy = cancel.By
	}
	var inner *Error
	switch {
	case errors.As(err, &inner):
		e.Code, e.Path, e.Stack = inner.Code, inner.Path, inner.Stack
		e.CanceledBy = inner.CanceledBy
		if err == error(inner) && len(e.Path) == 0 { //nolint:errorlint // the very same
			e.Text = inner.Text
		}
	case errors.Is(err, context.DeadlineExceeded):
		e.Code = CodeDeadline
	case errors.Is(err, context.Canceled):
		e.Code = CodeCanceled
	}
	return e
}

// encodeError encodes the error of a handler. If the call was cancelled and the error
// does not say by whom, it was by the process canceler.
func encodeError(err error, canceler string) []byte {
	e := toError(err)
	if e.Code == CodeCanceled && e.CanceledBy == "" {
		e.CanceledBy = canceler
	}
	var matches []string
	known.RLock()
	for _, name := range known.names {
		if errors.Is(err, known.errs[name]) && len(matches) < maxHops {
			matches = append(matches, name)
		}
	}
	known.RUnlock()
	var errno syscall.Errno
	number := errors.As(err, &errno)
	var w cbor.Writer
	w.Map(func() {
		w.TextField("code", frame.Text(string(e.Code), maxText))
		w.TextField("text", frame.Text(e.Text, maxText))
		writeTexts(&w, "is", matches)
		writeTexts(&w, "path", e.Path)
		w.OptionalText("by", frame.Text(e.CanceledBy, maxText))
		w.OptionalText("stack", frame.Text(e.Stack, maxStack))
		if number {
			w.IntField("errno", int64(errno))
			w.TextField("os", runtime.GOOS)
		}
	})
	return w.Encoded()
}

func writeTexts(w *cbor.Writer, key string, texts []string) {
	if len(texts) == 0 {
		return
	}
	w.Key(key)
	texts = texts[:min(len(texts), maxHops)]
	w.Array(len(texts))
	for _, s := range texts {
		w.Text(frame.Text(s, maxMethod))
	}
}

// parseError decodes the error of a call of a method.
func parseError(method string, body []byte) (*Error, error) {
	var e Error
	var matches []string
	var errno int64
	var system string
	r := cbor.NewReader(body)
	r.Map(func(key []byte) bool {
		switch string(key) {
		case "code":
			e.Code = Code(r.Text())
		case "text":
			e.Text = r.Text()
		case "is":
			matches = r.Texts()
		case "path":
			e.Path = r.Texts()
		case "by":
			e.CanceledBy = r.Text()
		case "stack":
			e.Stack = r.Text()
		case "errno":
			errno = r.Int()
		case "os":
			system = r.Text()
		default:
			return false
		}
		return true
	})
	if err := r.End(); err != nil {
		return nil, err
	}
	e.Path = append([]string{method}, e.Path...)
	known.RLock()
	defer known.RUnlock()
	for _, name := range matches {
		if err := known.errs[name]; err != nil {
			e.causes = append(e.causes, err)
		}
	}
	if errno > 0 && strings.EqualFold(system, runtime.GOOS) {
		e.causes = append(e.causes, syscall.Errno(errno))
	}
	return &e, nil
}

// protocolError is the error of a connection after a violation by the peer.
type protocolError struct{ err error }

func (e *protocolError) Error() string   { return ErrProtocol.Error() + ": " + e.err.Error() }
func (e *protocolError) Unwrap() []error { return []error{ErrProtocol, e.err} }

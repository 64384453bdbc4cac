package spawnspec

import (
	"errors"
	"fmt"
	"strconv"
)

// ErrNoArgs is what [Spec.DecodeArgs] returns for a Spec without arguments.
var ErrNoArgs = errors.New("spawnspec: the spec has no args")

// FieldError says which field of a Spec is wrong, and how.
type FieldError struct {
	// Field is the field's name on the wire: "entry", "bind[1]", "parent.id", or "vars.port" for
	// the variable named port.
	Field string
	// Reason is what is wrong with it. It may be empty if Err says it all.
	Reason string
	// Err is the cause, such as a *transport.AddrError or an error of the CBOR library, or nil.
	Err error
}

func (e *FieldError) Error() string {
	text := "spawnspec: field " + strconv.Quote(e.Field)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause, or nil.
func (e *FieldError) Unwrap() error { return e.Err }

// VersionError says that a spec is of another major version than this package reads. Nothing else
// of it was looked at.
type VersionError struct {
	Got  uint64 // the spec's version
	Want uint64 // the one that this package reads: [Version]
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("spawnspec: the spec has version %d, this program reads version %d", e.Got, e.Want)
}

func tooMany(field string, n int) error {
	return &FieldError{Field: field, Reason: fmt.Sprintf("%d elements; at most %d", n, maxList)}
}

func outOfRange(n, from, to int64) string {
	return fmt.Sprintf("%d is out of range; want %d to %d", n, from, to)
}

func element(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

package spawnspec

import (
	"errors"
	"fmt"
	"strconv"
)

// ErrNoArgs is the cause of an error of [Spec.DecodeArgs]: the Spec has no
// arguments.
var ErrNoArgs = errors.New("the spec has no args")

// FieldError is the error of one field of a Spec.
type FieldError struct {
	Field string // its name on the wire, such as "entry"
	Err   error
}

func (e *FieldError) Error() string {
	return "spawnspec: field " + strconv.Quote(e.Field) + ": " + e.Err.Error()
}

// Unwrap returns the cause, for example an error of the CBOR library.
func (e *FieldError) Unwrap() error { return e.Err }

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Err: fmt.Errorf(format, args...)}
}

package spawnspec

import (
	"fmt"
	"log/slog"
	"time"
)

// A new field of Spec also needs its place in codec.go (twice), check.go and
// docs/PROTOCOL.md.

// Spec describes the child that a parent spawns. All fields but Name and Entry are
// optional for the caller, and the zero value means the default.
//
// The caller sets Name to DeadAfter. The spawner sets Method, Depth and Grace and
// overwrites whatever they hold. A name is UTF-8 text of at most 256 bytes with
// no control characters.
//
// Several goroutines may read a Spec, and call its methods and [Marshal],
// concurrently, as long as nobody changes it or the value of its Args.
type Spec struct {
	// Name is the child's name in logs and errors. It need not be unique. If it
	// is empty, the spawner sets it to Entry, so one of the two is required.
	Name string

	// Entry is the registered entry that the child runs. It is empty for a
	// program that joins its parent by itself.
	Entry string

	// Args are the arguments of the entry: nil, or one value that can be encoded
	// as CBOR, is not cyclic and nests at most 63 deep. A [cbor.RawMessage] is
	// sent as it is, and an empty one means no arguments. In a Spec from
	// [Unmarshal], Args is nil or a cbor.RawMessage. [Spec.DecodeArgs] decodes
	// the arguments in both cases.
	Args any

	// Dir is the working directory of the child: an absolute path of at most
	// 32767 bytes of UTF-8. Empty means the parent's.
	Dir string

	// LogLevel is the lowest level that the child logs. Its zero value is
	// [slog.LevelInfo]. Package forkspawn passes other levels to
	// [slog.SetLogLoggerLevel] in the child, before the entry runs or Join
	// returns. A program that calls [slog.SetDefault] should do so before, and
	// use LogLevel for its own handler. An entry in the parent's process has the
	// logger of the parent.
	LogLevel slog.Level

	// Deadline is when the context of the child ends, by the wall clock, in the
	// years 1678 to 2261. Zero means no deadline. It keeps its nanoseconds, and
	// in the child it is in UTC. A deadline in the past is valid.
	Deadline time.Time

	// DeadAfter is how long the machine of the other side may be silent, when the
	// channel uses TCP or TLS: parent and child then take it for dead. Zero is 3
	// seconds. See transport.Config.
	DeadAfter time.Duration

	// Method is the name of the start method, such as "exec".
	Method string

	// Depth is the child's distance from the root program, which has 0. It is at
	// most 1000.
	Depth int

	// Grace is the usual time between the parent's request to stop and the use
	// of force. The child must stop its own children within it. 0 is unknown.
	Grace time.Duration
}

// Validate checks the fields from Name to DeadAfter, and checks that Args can be
// encoded. It leaves Method, Depth and Grace to [Marshal], and it does not look at the
// file system. Every error is a [*FieldError].
func (s *Spec) Validate() error {
	if err := s.check(); err != nil {
		return err
	}
	_, err := encodeArgs(s.Args)
	return err
}

// DecodeArgs decodes Args into the value that v points to. It refuses duplicate
// keys in a map, and ignores fields unknown to v. The result is the same in the
// parent and in the child, because the parent's Spec encodes its Args first. So
// an entry can be tested without a child.
//
// If there are no arguments, the error matches [ErrNoArgs], and v stays as it is.
// Any other error is a [*FieldError].
func (s *Spec) DecodeArgs(v any) error {
	encoded, err := encodeArgs(s.Args)
	if err != nil {
		return err
	}
	if len(encoded) == 0 {
		return fmt.Errorf("spawnspec: %w", ErrNoArgs)
	}
	if err := modes().decode.Unmarshal(encoded, v); err != nil {
		return fieldErrorf("args", "cannot be decoded into %T: %w", v, err)
	}
	return nil
}

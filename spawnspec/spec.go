package spawnspec

import (
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spawnwire/spawnwire/transport"
)

// Limits. A parent is authenticated before its spec is read, so these do not guard against a stranger:
// they find a mistake where it is made, and keep names fit for a line of a log.
const (
	maxName  = 256           // bytes in a name
	maxPath  = 32767         // bytes in a directory or an address: what Windows allows a path
	maxList  = 1024          // elements in a list of names or addresses
	maxDepth = 1000          // generations below the root program
	maxPID   = math.MaxInt32 // fits an int everywhere; kernels stay far below
)

// Spec is what a parent asks of the child it spawns. The zero value of each field means that it says
// nothing about it; [Spec.Validate] tells what else is allowed.
//
// Name to Deadline are the caller's. Method, Depth, Grace and Parent are the spawner's, which sets them
// whatever they were before.
//
// A name, here and in [Identity], is UTF-8 text of at most 256 bytes with no control characters.
// A list has at most 1024 elements.
//
// Spec is a plain value. Its methods, [Marshal] and the caller may read one Spec concurrently as long
// as nobody changes it or what its Args and Vars refer to.
type Spec struct {
	// Name is the child's name, for people: it stands in logs and errors. It need not be unique.
	// If it is empty, the spawner takes Entry for it, so one of the two has to be there.
	Name string

	// Entry is the registered entry that the child runs. It is empty for a child that is a program
	// of its own and joins its parent by itself.
	Entry string

	// Args are the entry's arguments: nil, or any one value that can be encoded as CBOR, not
	// cyclic, nested at most 63 levels deep. In a Spec from [Unmarshal] it is nil or a
	// [cbor.RawMessage]; either way [Spec.DecodeArgs] reads it. A RawMessage is sent as it is, an
	// empty one means no arguments.
	Args any

	// Vars are variables of the running program by name; the environment of the operating system
	// has no part in them. Values are what Args may be, except that they nest at most 62 levels deep
	// and that keys of maps in them are text, byte strings, integers or booleans. In a Spec from
	// [Unmarshal] values have the types that a message decoded into an any has: uint64, int64
	// (negative numbers only), float64, bool, string, []byte, nil, []any, map[any]any, time.Time,
	// big.Int, [cbor.Tag] and [cbor.SimpleValue].
	Vars map[string]any

	// Modules names the modules or entries that the child enables, in order.
	Modules []string

	// Registry is where the child finds the registry of its peers.
	Registry []transport.Addr

	// Bind is where the child shall listen.
	Bind []transport.Addr

	// Dir is the child's working directory: absolute in the form of this platform, at most 32767
	// bytes of UTF-8. Empty means the parent's. Whether it exists shows when the child starts.
	Dir string

	// LogLevel is the lowest level that the child logs. Its zero value is [slog.LevelInfo].
	LogLevel slog.Level

	// Deadline is when the child must be done, by the wall clock, in the years 1678 to 2261. Zero
	// means no deadline. It travels in nanoseconds and comes back in UTC. A deadline in the past is
	// valid: who acts on it decides.
	Deadline time.Time

	// Method is the name of the start method. The spawner sets it.
	Method string

	// Depth counts generations: the root program is 0 and spawns children of depth 1; at most 1000.
	// The spawner sets it.
	Depth int

	// Grace is how long the parent waits, as a rule, after it has asked the child to stop before it uses
	// force: what the child needs to stop children of its own must fit in. It travels in
	// nanoseconds; 0 is unknown. The spawner sets it.
	Grace time.Duration

	// Parent says who spawned the child. The spawner sets it.
	Parent Identity
}

// Identity is how a process presents itself to the one it talks to.
type Identity struct {
	ID   string // unique among the peers of a spawner; a name, required
	Name string // for people; a name, may be empty
	PID  int    // the process's id as it sees it itself, from 0 (unknown) to 2147483647
}

// Validate checks all that a caller sets: each field up to Deadline, and that Args and Vars can be
// encoded. It does not look at Method, Depth, Grace and Parent, which are the spawner's and which [Marshal]
// checks. Every error is a [*FieldError]. Nothing is looked up in the file system or the network.
func (s *Spec) Validate() error {
	if err := s.check(); err != nil {
		return err
	}
	if _, err := encodeArgs(s.Args); err != nil {
		return err
	}
	_, err := encodeVars(s.Vars)
	return err
}

// DecodeArgs decodes the arguments into what v points to. It does the same before a Spec is sent and
// after: in a Spec that was not decoded it encodes Args first, so that an entry can be tested, or run
// in its parent's process, with no difference.
//
// Without arguments the error is [ErrNoArgs] and v stays as it was. Any other error is a
// [*FieldError] of "args". Duplicate keys in a map are refused; fields that v does not have are ignored.
func (s *Spec) DecodeArgs(v any) error {
	raw, err := encodeArgs(s.Args)
	if err != nil {
		return err
	}
	if len(raw) == 0 {
		return ErrNoArgs
	}
	if err := modes().args.Unmarshal(raw, v); err != nil {
		return &FieldError{Field: "args", Reason: fmt.Sprintf("cannot be decoded into %T", v), Err: err}
	}
	return nil
}

// check checks the caller's fields, except that Args and Vars can be encoded.
func (s *Spec) check() error {
	switch {
	case s.Name != "":
		if reason := badName(s.Name); reason != "" {
			return &FieldError{Field: "name", Reason: reason}
		}
	case s.Entry == "":
		return &FieldError{Field: "name", Reason: "empty, and there is no entry to name the child after"}
	}
	if s.Entry != "" {
		if reason := badName(s.Entry); reason != "" {
			return &FieldError{Field: "entry", Reason: reason}
		}
	}
	if len(s.Modules) > maxList {
		return tooMany("modules", len(s.Modules))
	}
	for i, m := range s.Modules {
		if reason := badName(m); reason != "" {
			return &FieldError{Field: element("modules", i), Reason: reason}
		}
	}
	if err := checkAddrs("registry", s.Registry); err != nil {
		return err
	}
	if err := checkAddrs("bind", s.Bind); err != nil {
		return err
	}
	if s.Dir != "" {
		if reason := badDir(s.Dir); reason != "" {
			return &FieldError{Field: "dir", Reason: reason}
		}
	}
	if !s.Deadline.IsZero() {
		first, last := time.Unix(0, math.MinInt64), time.Unix(0, math.MaxInt64)
		if s.Deadline.Before(first) || s.Deadline.After(last) {
			return &FieldError{Field: "deadline", Reason: fmt.Sprintf(
				"the year %d is out of range; want 1678 to 2261", s.Deadline.Year())}
		}
	}
	return nil
}

// checkOrders checks what the spawner sets.
func (s *Spec) checkOrders() error {
	if s.Name == "" {
		return &FieldError{Field: "name", Reason: "empty"}
	}
	if reason := badName(s.Method); reason != "" {
		return &FieldError{Field: "method", Reason: reason}
	}
	if s.Depth < 1 || s.Depth > maxDepth {
		return &FieldError{Field: "depth", Reason: outOfRange(int64(s.Depth), 1, maxDepth)}
	}
	if s.Grace < 0 {
		return &FieldError{Field: "grace", Reason: fmt.Sprintf("%v is negative", s.Grace)}
	}
	if reason := badName(s.Parent.ID); reason != "" {
		return &FieldError{Field: "parent.id", Reason: reason}
	}
	if s.Parent.Name != "" {
		if reason := badName(s.Parent.Name); reason != "" {
			return &FieldError{Field: "parent.name", Reason: reason}
		}
	}
	if s.Parent.PID < 0 || s.Parent.PID > maxPID {
		return &FieldError{Field: "parent.pid", Reason: outOfRange(int64(s.Parent.PID), 0, maxPID)}
	}
	return nil
}

func checkAddrs(field string, addrs []transport.Addr) error {
	if len(addrs) > maxList {
		return tooMany(field, len(addrs))
	}
	for i, a := range addrs {
		if a.IsZero() {
			return &FieldError{Field: element(field, i), Reason: "no address"}
		}
		if reason := badPath(a.Target); reason != "" {
			return &FieldError{Field: element(field, i), Reason: reason}
		}
		if _, err := a.MarshalText(); err != nil {
			return &FieldError{Field: element(field, i), Err: err}
		}
	}
	return nil
}

// badName tells what is wrong with a name, or "".
func badName(s string) string {
	switch {
	case s == "":
		return "empty"
	case len(s) > maxName:
		return fmt.Sprintf("%d bytes long; at most %d", len(s), maxName)
	case printable(s):
		return ""
	case !utf8.ValidString(s):
		return fmt.Sprintf("%q is not UTF-8", s)
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return fmt.Sprintf("%q has a control character", s)
	}
	return ""
}

func badDir(dir string) string {
	if reason := badPath(dir); reason != "" {
		return reason
	}
	switch {
	case strings.IndexByte(dir, 0) >= 0:
		return fmt.Sprintf("%q has a NUL byte", dir)
	case !filepath.IsAbs(dir):
		return fmt.Sprintf("%q is not absolute", dir)
	}
	return ""
}

// badPath checks what CBOR text and an error's line need of a path; what is in it, others check.
func badPath(s string) string {
	switch {
	case len(s) > maxPath:
		return fmt.Sprintf("%d bytes long; at most %d", len(s), maxPath)
	case !utf8.ValidString(s):
		return fmt.Sprintf("%q is not UTF-8", s)
	}
	return ""
}

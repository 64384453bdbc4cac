package spawnspec

import (
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/spawnwire/spawnwire/internal/strictcbor"
	"github.com/spawnwire/spawnwire/transport"
)

// Version is the major version of the wire format that this package writes and reads. Additions that
// an older reader may ignore do not change it.
const Version = 1

// Marshal encodes a Spec that is complete: what [Spec.Validate] checks, and Name, Method, Depth, Grace and
// Parent set. Every error is a [*FieldError]. The same Spec always gives the same bytes.
// A spawner calls it before it starts a process, so that bad orders cost nothing.
func Marshal(s *Spec) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := s.checkOrders(); err != nil {
		return nil, err
	}
	args, err := encodeArgs(s.Args)
	if err != nil {
		return nil, err
	}
	vars, err := encodeVars(s.Vars)
	if err != nil {
		return nil, err
	}
	return s.encode(args, vars), nil
}

// Unmarshal decodes and checks a Spec. It keeps nothing of data. A spec of another version gives a
// [*VersionError], a wrong or missing field a [*FieldError] with its name, and data that is not one
// CBOR map an error that says so. Unknown fields are ignored.
func Unmarshal(data []byte) (*Spec, error) {
	s, ok := readPlain(data)
	if !ok {
		var err error
		if s, err = read(data); err != nil {
			return nil, err
		}
	}
	if err := s.checkOrders(); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

// read decodes a Spec field by field.
func read(data []byte) (*Spec, error) {
	fields, err := readMap(data, "", maxFields)
	if err != nil {
		return nil, err
	}
	r := &reader{fields: fields}
	if v := r.uint("v", required); r.err == nil && v != Version {
		return nil, &VersionError{Got: v, Want: Version}
	}
	s := &Spec{
		Name:     r.text("name", required),
		Entry:    r.text("entry", optional),
		Args:     r.args("args"),
		Vars:     r.vars("vars"),
		Modules:  r.texts("modules"),
		Registry: r.addrs("registry"),
		Bind:     r.addrs("bind"),
		Dir:      r.text("dir", optional),
		LogLevel: r.level("log"),
		Deadline: r.time("deadline"),
		Method:   r.text("method", required),
		Depth:    r.int("depth", required, maxDepth),
		Grace:    r.duration("grace"),
	}
	p := r.sub("parent")
	s.Parent = Identity{
		ID:   p.text("id", required),
		Name: p.text("name", optional),
		PID:  p.int("pid", optional, maxPID),
	}
	p.checkUnknown(2)
	r.err = p.err
	r.checkUnknown(1)
	return s, r.err
}

func addrTexts(addrs []transport.Addr) []string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return texts
}

// encodeArgs returns nil for no arguments. Who decodes them finds what the check here leaves open:
// text that is not UTF-8, duplicate keys.
func encodeArgs(args any) (cbor.RawMessage, error) {
	if args == nil {
		return nil, nil
	}
	raw, ok := args.(cbor.RawMessage)
	if !ok {
		var err error
		if raw, err = modes().enc.Marshal(args); err != nil {
			return nil, &FieldError{Field: "args", Reason: fmt.Sprintf("%T cannot be encoded", args), Err: err}
		}
	}
	if len(raw) == 0 {
		return nil, nil
	}
	// A RawMessage and a type that encodes itself can hold anything.
	if err := checkArgs(raw); err != nil {
		return nil, &FieldError{Field: "args", Err: err}
	}
	return raw, nil
}

// checkArgs checks that raw is one item, and of a form that both ends of the wire take.
func checkArgs(raw cbor.RawMessage) error {
	if err := checkItem(argsMode, raw); err != nil {
		return err
	}
	// Only its encoder makes the library look at what is under the tags 0 to 3 at any depth.
	_, err := modes().enc.Marshal(raw)
	return err
}

// encodeVars encodes each variable by itself, so that an error names it. It returns nil for none.
func encodeVars(vars map[string]any) (cbor.RawMessage, error) {
	if len(vars) == 0 {
		return nil, nil
	}
	encoded := make(map[string]cbor.RawMessage, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) { // sorted: the same error each time
		if reason := badName(name); reason != "" {
			return nil, &FieldError{Field: "vars", Reason: "a variable's name: " + reason}
		}
		raw, err := modes().enc.Marshal(vars[name])
		if err != nil {
			return nil, &FieldError{
				Field: "vars." + name, Reason: fmt.Sprintf("%T cannot be encoded", vars[name]), Err: err,
			}
		}
		if err := checkItem(variableMode, raw); err != nil {
			return nil, &FieldError{Field: "vars." + name, Err: err}
		}
		if _, err := decodeVar(raw); err != nil {
			return nil, &FieldError{Field: "vars." + name, Err: err}
		}
		encoded[name] = raw
	}
	return modes().enc.Marshal(encoded)
}

func decodeVar(raw cbor.RawMessage) (any, error) {
	var v any
	if err := modes().variable.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	return v, checkVar(v)
}

// checkVar refuses the values that can be decoded but not encoded again as the same: keys that have
// two encodings or are not equal to themselves, and times that RFC 3339 cannot say. So a child can
// hand the variables that it got on to its own children.
func checkVar(v any) error {
	switch v := v.(type) {
	case map[any]any:
		for key, value := range v {
			switch key.(type) {
			case string, cbor.ByteString, uint64, int64, bool:
			default:
				return fmt.Errorf("a key of a map is a %T; want text, bytes, an integer or a boolean", key)
			}
			if err := checkVar(value); err != nil {
				return err
			}
		}
	case []any:
		for _, value := range v {
			if err := checkVar(value); err != nil {
				return err
			}
		}
	case cbor.Tag:
		return checkVar(v.Content)
	case time.Time:
		_, err := modes().enc.Marshal(v)
		return err
	}
	return nil
}

// reader takes the fields out of a map one by one. After the first error, which it keeps, its methods
// return zero values.
type reader struct {
	fields []field
	prefix string // of field names in errors
	err    error
}

const (
	required = true
	optional = false
)

func (r *reader) fail(field, reason string, err error) {
	if r.err == nil {
		r.err = &FieldError{Field: r.prefix + field, Reason: reason, Err: err}
	}
}

// take returns a field's value, or nil if there is none or it is not of the kind that want names.
func (r *reader) take(field, want string, need bool, kinds ...byte) cbor.RawMessage {
	if r.err != nil {
		return nil
	}
	f := find(r.fields, field)
	if f == nil {
		if need {
			r.fail(field, "missing", nil)
		}
		return nil
	}
	raw := f.value
	f.value = nil
	if len(kinds) > 0 && !slices.Contains(kinds, major(raw)) {
		r.fail(field, "is "+kindOf(raw)+"; want "+want, nil)
		return nil
	}
	return raw
}

// sorted sorts fields by name, in place.
func sorted(fields []field) []field {
	slices.SortFunc(fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return fields
}

// checkUnknown looks at the fields that nobody took, of a map that is the around-th from the outside. They are ignored,
// but obey the rules of every message.
func (r *reader) checkUnknown(around int) {
	left := slices.DeleteFunc(r.fields, func(f field) bool { return f.value == nil })
	if r.err != nil || len(left) == 0 {
		return
	}
	for _, f := range sorted(left) {
		if err := strictcbor.Check(f.value, around); err != nil {
			r.fail(f.name, "", err)
			return
		}
	}
}

func (r *reader) text(field string, need bool) string {
	raw := r.take(field, "text", need, majorText)
	if raw == nil {
		return ""
	}
	return r.decodeText(field, raw)
}

func (r *reader) decodeText(field string, raw cbor.RawMessage) (s string) {
	if text, rest, ok := plainText(raw); ok && len(rest) == 0 {
		s = string(text)
	} else if err := modes().plain.Unmarshal(raw, &s); err != nil {
		r.fail(field, "", err)
	}
	if r.err == nil && s == "" {
		r.fail(field, "empty", nil)
	}
	return s
}

func (r *reader) uint(field string, need bool) uint64 {
	raw := r.take(field, "an unsigned integer", need, majorUint)
	if raw == nil {
		return 0
	}
	_, n, _, err := readHead(raw)
	if err != nil {
		r.fail(field, "", err)
	}
	return n
}

func (r *reader) int(field string, need bool, limit uint64) int {
	n := r.uint(field, need)
	if n > limit {
		r.fail(field, fmt.Sprintf("%d is out of range; at most %d", n, limit), nil)
		return 0
	}
	return int(n)
}

func (r *reader) duration(field string) time.Duration {
	n := r.uint(field, optional)
	if n > math.MaxInt64 {
		r.fail(field, fmt.Sprintf("%d is out of range; want nanoseconds, at most %d", n, int64(math.MaxInt64)), nil)
		return 0
	}
	return time.Duration(n)
}

func (r *reader) time(field string) time.Time {
	raw := r.take(field, "an integer", optional, majorUint, majorNegative)
	if raw == nil {
		return time.Time{}
	}
	var ns int64
	if err := modes().plain.Unmarshal(raw, &ns); err != nil {
		r.fail(field, "out of range; want nanoseconds that fit 64 bits", err)
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func (r *reader) level(field string) (level slog.Level) {
	text := r.text(field, optional)
	if text == "" {
		return level
	}
	if reason := badName(text); reason != "" {
		r.fail(field, reason, nil)
		return level
	}
	if err := level.UnmarshalText([]byte(text)); err != nil {
		r.fail(field, "want DEBUG, INFO, WARN or ERROR, with an offset such as +2 or without", err)
		return level
	}
	// slog adds the offset without a look at overflow.
	if strings.Contains(text, "+") && level < slog.LevelDebug || strings.Contains(text, "-") && level > slog.LevelError {
		r.fail(field, fmt.Sprintf("the offset of %q is out of range", text), nil)
	}
	return level
}

func (r *reader) texts(field string) []string {
	raw := r.take(field, "an array of text", optional, majorArray)
	if raw == nil {
		return nil
	}
	_, n, rest, err := readHead(raw)
	if err != nil {
		r.fail(field, "", err)
		return nil
	}
	if n > maxList { // before anything is made of them
		r.fail(field, fmt.Sprintf("%d elements; at most %d", n, maxList), nil)
		return nil
	}
	var texts []string
	for i := range int(n) {
		var item cbor.RawMessage
		if item, rest, err = nextItem(plainMode, rest); err != nil {
			r.fail(element(field, i), "", err)
			return nil
		}
		if major(item) != majorText {
			r.fail(element(field, i), "is "+kindOf(item)+"; want text", nil)
			return nil
		}
		texts = append(texts, r.decodeText(element(field, i), item))
	}
	return texts
}

func (r *reader) addrs(field string) []transport.Addr {
	var addrs []transport.Addr
	for i, text := range r.texts(field) {
		if reason := badPath(text); reason != "" { // before it is quoted in an error
			r.fail(element(field, i), reason, nil)
			return nil
		}
		a, err := transport.ParseAddr(text)
		if err != nil {
			r.fail(element(field, i), "", err)
			return nil
		}
		addrs = append(addrs, a)
	}
	return addrs
}

func (r *reader) args(field string) any {
	raw := r.take(field, "", optional)
	if raw == nil {
		return nil // of type any: a nil RawMessage in it would not be nil
	}
	if err := checkArgs(raw); err != nil {
		r.fail(field, "", err)
		return nil
	}
	return slices.Clone(raw)
}

func (r *reader) vars(field string) map[string]any {
	raw := r.take(field, "a map", optional, majorMap)
	if raw == nil {
		return nil
	}
	fields, err := readMap(raw, r.prefix+field+".", len(raw))
	if err != nil {
		r.err = err
		return nil
	}
	if len(fields) == 0 {
		return nil
	}
	vars := make(map[string]any, len(fields))
	for _, f := range sorted(fields) {
		v, err := decodeVar(f.value)
		if err != nil {
			r.fail(field+"."+f.name, "", err)
			return nil
		}
		vars[f.name] = v
	}
	return vars
}

// sub returns a reader of the fields of a required map. It goes on with r's error.
func (r *reader) sub(field string) *reader {
	sub := &reader{prefix: r.prefix + field + "."}
	if raw := r.take(field, "a map", required, majorMap); raw != nil {
		sub.fields, r.err = readMap(raw, sub.prefix, maxFields)
	}
	sub.err = r.err
	return sub
}

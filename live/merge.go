package live

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/spawnwire/spawnwire/internal/inspect"
)

// A profile is a message of protocol buffers, whose format is profile.proto of
// github.com/google/pprof. Its parts refer to each other by numbers: the ids of mappings,
// locations and functions, and the places of texts in a table. A merger copies the parts of
// several profiles into one message, and changes these numbers.

// maxUnpacked is the most that a profile has without compression, in bytes.
const maxUnpacked = 256 << 20

// reference is what the number of a field means.
type reference int

const (
	_ reference = iota
	toText
	toLabel // a text, too: the key of a label
	toMapping
	toLocation
	toFunction
	references
)

// field is how a field of a message is copied. Zero is without a change.
type field struct {
	to   reference
	part message
}

// message has the fields with a change, by number.
type message map[uint64]field

// The numbers of some fields of a profile.
const (
	fieldSampleType, fieldSample, fieldMapping, fieldLocation, fieldFunction = 1, 2, 3, 4, 5
	fieldText, fieldPeriodType, fieldComment, fieldDefaultType               = 6, 11, 13, 14

	fieldLabel                       = 3 // of a sample
	labelKey, labelText, labelNumber = 1, 2, 3
)

var (
	valueType = message{1: {to: toText}, 2: {to: toText}}
	label     = message{labelKey: {to: toLabel}, labelText: {to: toText}, 4: {to: toText}}
	profiles  = message{
		fieldSampleType: {part: valueType},
		fieldSample:     {part: message{1: {to: toLocation}, fieldLabel: {part: label}}},
		fieldMapping:    {part: message{1: {to: toMapping}, 5: {to: toText}, 6: {to: toText}}},
		fieldLocation: {part: message{1: {to: toLocation}, 2: {to: toMapping},
			4: {part: message{1: {to: toFunction}}}}},
		fieldFunction: {part: message{
			1: {to: toFunction}, 2: {to: toText}, 3: {to: toText}, 4: {to: toText}}},
		fieldPeriodType:  {part: valueType},
		fieldComment:     {to: toText},
		fieldDefaultType: {to: toText},
	}
)

// pid is the key of a number in each sample of a merged profile.
const pid = "pid"

// merger makes one profile of several. A sample without a process gets labels with it.
type merger struct {
	out   []byte
	types []byte // the sample types, which all profiles have in common
	texts []string
	at    map[string]uint64 // of a text in texts

	base [references]uint64 // what is added to the ids of the next profile
	most [references]uint64 // the highest id so far
	own  []string           // the texts of the current profile
	// labelled is whether the last sample has its process
	labelled bool
}

func newMerger() *merger {
	m := &merger{at: map[string]uint64{}}
	m.text("") // the first one, by the format
	return m
}

func (m *merger) text(s string) uint64 {
	i, ok := m.at[s]
	if !ok {
		i = uint64(len(m.texts))
		m.texts, m.at[s] = append(m.texts, s), i
	}
	return i
}

var errNoProfile = errors.New("not a profile that pprof can read")

// mergeProfiles makes one profile of several. Comments in it name the processes without one.
func mergeProfiles(all []inspect.Profiled) ([]byte, error) {
	m := newMerger()
	var first error
	for _, p := range all {
		if p.Err == nil && p.Data != nil {
			p.Err = m.add(p)
		}
		if p.Err != nil {
			first = cmp.Or(first, p.Err)
			m.comment(fmt.Sprintf("%s (pid %d): %v", p.Name, p.PID, p.Err))
		}
	}
	if m.types == nil {
		return nil, first
	}
	return m.pack()
}

// add adds a profile.
func (m *merger) add(p inspect.Profiled) error {
	data, err := unpack(p.Data)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoProfile, err)
	}
	m.own, m.base = nil, m.most
	if err := each(data, func(n uint64, _ int, _ uint64, part []byte) error {
		if n == fieldText {
			m.own = append(m.own, string(part))
		}
		return nil
	}); err != nil {
		return err
	}
	first := m.types == nil
	var out, types []byte
	err = each(data, func(n uint64, kind int, v uint64, part []byte) (err error) {
		switch n {
		case fieldText:
		case fieldSampleType:
			types, err = m.copyField(types, profiles, n, kind, v, part)
		case fieldSample:
			m.labelled = false
			part, err = m.copy(nil, profiles[n].part, part)
			if !p.Own && !m.labelled {
				part = appendPart(part, fieldLabel, appendNumber(appendNumber(nil,
					labelKey, m.text("process")), labelText, m.text(p.Name)))
				part = appendPart(part, fieldLabel, appendNumber(appendNumber(nil,
					labelKey, m.text(pid)), labelNumber, uint64(p.PID)))
			}
			out = appendPart(out, n, part)
		case fieldMapping, fieldLocation, fieldFunction, fieldComment:
			out, err = m.copyField(out, profiles, n, kind, v, part)
		default:
			if first { // the times, the period and the default are those of the first profile
				out, err = m.copyField(out, profiles, n, kind, v, part)
			}
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case first:
		m.types = types
	case !bytes.Equal(types, m.types):
		return errors.New("its profile has other sample types")
	}
	m.out = append(m.out, out...)
	return nil
}

func unpack(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxUnpacked))
}

// comment adds a text that pprof shows with -comments.
func (m *merger) comment(s string) { m.out = appendNumber(m.out, fieldComment, m.text(s)) }

// pack returns the profile as pprof reads it.
func (m *merger) pack() ([]byte, error) {
	out := append(bytes.Clone(m.types), m.out...)
	for _, s := range m.texts {
		out = appendPart(out, fieldText, []byte(s))
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(out) // a Buffer does not fail
	err := z.Close()
	return b.Bytes(), err
}

// copy appends a message with new numbers to b.
func (m *merger) copy(b []byte, fields message, from []byte) ([]byte, error) {
	err := each(from, func(n uint64, kind int, v uint64, part []byte) (err error) {
		b, err = m.copyField(b, fields, n, kind, v, part)
		return err
	})
	return b, err
}

func (m *merger) copyField(
	b []byte, fields message, n uint64, kind int, v uint64, part []byte,
) ([]byte, error) {
	f := fields[n]
	var err error
	switch {
	case kind == kindNumber:
		v, err = m.number(f.to, v)
		return appendNumber(b, n, v), err
	case f.part != nil:
		part, err = m.copy(nil, f.part, part)
	case f.to != 0: // several numbers
		var list []byte
		for len(part) > 0 && err == nil {
			var size int
			if v, size = binary.Uvarint(part); size <= 0 {
				return b, errNoProfile
			}
			v, err = m.number(f.to, v)
			list, part = binary.AppendUvarint(list, v), part[size:]
		}
		part = list
	}
	return appendPart(b, n, part), err
}

// number returns the number for one of the current profile.
func (m *merger) number(to reference, v uint64) (uint64, error) {
	switch to {
	case 0:
		return v, nil
	case toText, toLabel:
		if v >= uint64(len(m.own)) {
			return 0, errNoProfile
		}
		m.labelled = m.labelled || to == toLabel && m.own[v] == pid
		return m.text(m.own[v]), nil
	}
	switch {
	case v == 0: // none
		return 0, nil
	case v > maxUnpacked:
		return 0, errNoProfile
	}
	v += m.base[to]
	m.most[to] = max(m.most[to], v)
	return v, nil
}

// The kinds of a profile's fields, by their numbers in the encoding.
const kindNumber, kindPart = 0, 2

// each calls f for each field of a message. Either v or part is its value.
func each(data []byte, f func(n uint64, kind int, v uint64, part []byte) error) error {
	for len(data) > 0 {
		tag, size := binary.Uvarint(data)
		if size <= 0 {
			return errNoProfile
		}
		data = data[size:]
		v, size := binary.Uvarint(data)
		if size <= 0 {
			return errNoProfile
		}
		data = data[size:]
		var part []byte
		switch kind := tag & 7; {
		case kind == kindPart && v <= uint64(len(data)):
			part, data = data[:v], data[v:]
		case kind != kindNumber:
			return errNoProfile
		}
		if err := f(tag>>3, int(tag&7), v, part); err != nil {
			return err
		}
	}
	return nil
}

func appendNumber(b []byte, n, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, n<<3|kindNumber), v)
}

func appendPart(b []byte, n uint64, part []byte) []byte {
	b = binary.AppendUvarint(b, n<<3|kindPart)
	return append(binary.AppendUvarint(b, uint64(len(part))), part...)
}

package handshake

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// Implementations in other languages are tested with the vectors in testdata/.
// This file makes all of them from the inputs below. testdata/README.md explains
// each field.

var update = flag.Bool("update", false,
	"write the vectors in testdata/ anew instead of checking against them")

// hexa is encoded in JSON as hexadecimal text.
type hexa []byte

func (h hexa) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

type vectors struct {
	Frames  framesFile
	Child   childFile
	Peers   peersFile
	Tickets ticketsFile
	Refused refusedFile
	Large   largeFile
	Taken   takenFile
}

// files maps the names of the files to their contents.
func (v vectors) files() map[string]any {
	return map[string]any{
		"frames.json": v.Frames, "child.json": v.Child, "peers.json": v.Peers,
		"tickets.json": v.Tickets, "refused.json": v.Refused,
		"large.json": v.Large, "taken.json": v.Taken,
	}
}

type framesFile struct {
	About   []string       `json:"about"`
	Streams []vectorStream `json:"streams"`
}

// vectorStream is a stream of bytes and the frames that a receiver with the limit
// finds in it.
type vectorStream struct {
	Name   string      `json:"name"`
	Limit  int         `json:"limit"`
	Bytes  hexa        `json:"bytes"`
	Frames []namedBody `json:"frames"`
}

type namedBody struct {
	Kind   string `json:"kind"`
	Number byte   `json:"number"`
	Body   hexa   `json:"body"`
}

type childFile struct {
	About     []string        `json:"about"`
	Ticket    vectorTicket    `json:"ticket"`
	MACs      []vectorMAC     `json:"macs"`
	Secret    hexa            `json:"secret"`
	Hello     vectorFrame     `json:"hello"`
	Welcome   vectorFrame     `json:"welcome"`
	Spec      vectorFrame     `json:"spec"`
	Ready     vectorFrame     `json:"ready"`
	Failed    vectorFrame     `json:"failed"`
	Refused   vectorFrame     `json:"refused"`
	Version   vectorFrame     `json:"no_common_version"`
	Session   vectorMAC       `json:"session"`
	Attach    vectorFrame     `json:"attach"`
	Attached  vectorFrame     `json:"attached"`
	Open      []vectorFrame   `json:"open"`
	Control   []vectorControl `json:"control"`
	Tolerated []vectorFrame   `json:"tolerated"`
}

type vectorTicket struct {
	Name    string `json:"name,omitempty"`
	Value   string `json:"value"`
	ID      string `json:"id"`
	Secret  hexa   `json:"secret"`
	Address string `json:"address"`
}

type vectorMAC struct {
	Name  string `json:"name"`
	Key   hexa   `json:"key"`
	Label string `json:"label"`
	Parts []hexa `json:"parts"`
	Input hexa   `json:"input"`
	MAC   hexa   `json:"mac"`
}

// vectorFrame is one frame and its parts.
type vectorFrame struct {
	What     string `json:"what"`
	Kind     string `json:"kind"`
	Fields   any    `json:"fields,omitempty"`    // byte strings are in hexadecimal
	Payload  hexa   `json:"payload,omitempty"`   // of a sealed message
	MACInput hexa   `json:"mac_input,omitempty"` // of a sealed message and of a proof
	MAC      hexa   `json:"mac,omitempty"`       // of a sealed message and of a proof
	Body     hexa   `json:"body"`
	Frame    hexa   `json:"frame"`
}

// vectorControl is a frame on a child's control connection, and the child's
// reaction.
type vectorControl struct {
	What  string `json:"what"`
	State string `json:"state"` // "attaching" or "attached"
	Kind  string `json:"kind"`
	Body  hexa   `json:"body"`
	Frame hexa   `json:"frame"`
	Does  string `json:"does"`
}

type peersFile struct {
	About         []string    `json:"about"`
	Key           hexa        `json:"key"`
	DialerGreet   vectorFrame `json:"dialer_greet"`
	AcceptorGreet vectorFrame `json:"acceptor_greet"`
	DialerProof   vectorFrame `json:"dialer_proof"`
	AcceptorProof vectorFrame `json:"acceptor_proof"`
	EmptyProof    vectorFrame `json:"empty_proof"`
}

type ticketsFile struct {
	About            []string        `json:"about"`
	Variable         string          `json:"variable"`
	Tickets          []vectorTicket  `json:"tickets"`
	RefusedTickets   []refusedText   `json:"refused_tickets"`
	Addresses        []vectorAddress `json:"addresses"`
	RefusedAddresses []refusedText   `json:"refused_addresses"`
}

type vectorAddress struct {
	Text     string `json:"text"`
	Scheme   string `json:"scheme"`
	Path     string `json:"path,omitempty"`
	Abstract string `json:"abstract,omitempty"`
	Host     string `json:"host,omitempty"`
	Port     *int   `json:"port,omitempty"`
	Pin      hexa   `json:"pin,omitempty"`
}

type refusedText struct {
	Name  string `json:"name"`
	Text  string `json:"text"`
	Error string `json:"error"`
}

// The inputs.

func counting(from byte) []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

var (
	vectorSecret = counting(0x00)
	vectorKey    = []byte("a key that two programs share")
	vectorHello  = hello{versionRange{1, 1},
		self{Identity{"00112233445566778899aabbccddeeff", "worker-1", 4321}, counting(0x20),
			[]string{featureControl}}}
	vectorWelcome = welcome{1,
		self{Identity{"parent-1", "boss", 1234}, counting(0x40), []string{featureControl}}, 0}
	vectorAttach = attach{vectorHello.ID, counting(0x60)}
	vectorReady  = ready{access.Timings{Init: 1_000_000_000, Main: 1_000_200_000,
		Connected: 1_000_300_000, Accepted: 1_000_400_000}, nil}
	vectorGreets = [2]greet{
		{versionRange{1, 1}, self{Identity{"left", "dialer", 11}, counting(0x80), nil}, authKey},
		{versionRange{1, 2}, self{Identity{"right", "acceptor", 12}, counting(0xa0), nil}, authKey},
	}
	vectorAddr = transport.Addr{Scheme: transport.SchemeUDS, Target: "/run/user/1000/a b.sock"}
)

func vectorSpec(t testing.TB) *spawnspec.Spec {
	t.Helper()
	return &spawnspec.Spec{
		Name: "worker-1", Entry: "upper", Args: map[string]any{"width": 640},
		Method: "exec", Depth: 1,
	}
}

// fullSpec has every field.
func fullSpec(t testing.TB) *spawnspec.Spec {
	t.Helper()
	s := vectorSpec(t)
	s.Args = map[string]any{"region": "eu", "started": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s.LogLevel = 2
	s.Deadline = time.Unix(1_800_000_000, 0)
	s.Grace = 5 * time.Second
	s.DeadAfter = 10 * time.Second
	return s
}

func marshalSpec(t testing.TB, s *spawnspec.Spec) []byte {
	t.Helper()
	b, err := spawnspec.Marshal(s)
	require.NoError(t, err)
	return b
}

// The functions below make the vectors.

func frameBytes(kind frame.Kind, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(1+len(body)))
	return append(append(b, byte(kind)), body...)
}

func plainVector(what string, kind frame.Kind, body []byte) vectorFrame {
	v := vectorFrame{What: what, Kind: kind.String(), Body: body, Frame: frameBytes(kind, body)}
	switch kind {
	case frame.KindRaw, frame.KindPing, frame.KindPong:
	default:
		v.Fields = readable(body)
	}
	return v
}

func sealedVector(
	what string, kind frame.Kind, key []byte, label string, payload []byte, said ...[]byte,
) vectorFrame {
	input := macInput(label, append(said, payload)...)
	mac := hmacOf(key, input)
	body := sealed{payload, mac}.encode()
	return vectorFrame{
		What: what, Kind: kind.String(), Fields: readable(payload),
		Payload: payload, MACInput: input, MAC: mac, Body: body, Frame: frameBytes(kind, body),
	}
}

func proofVector(what string, label string, said ...[]byte) vectorFrame {
	input := macInput(label, said...)
	mac := hmacOf(vectorKey, input)
	body := encodeProof(mac)
	return vectorFrame{What: what, Kind: "proof", MACInput: input, MAC: mac, Body: body,
		Frame: frameBytes(frame.KindProof, body)}
}

// readable decodes a message to a form that people can read. It returns nil for args
// that the library does not decode.
func readable(payload []byte) any {
	mode, err := cbor.DecOptions{MaxNestedLevels: 64}.DecMode()
	if err != nil {
		panic(err)
	}
	var v any
	if err := mode.Unmarshal(payload, &v); err != nil {
		return nil
	}
	return forJSON(v)
}

func forJSON(v any) any {
	switch v := v.(type) {
	case []byte:
		return hexa(v)
	case cbor.Tag:
		return forJSON(v.Content)
	case []any:
		for i := range v {
			v[i] = forJSON(v[i])
		}
	case map[any]any:
		m := make(map[string]any)
		for k, e := range v {
			m[fmt.Sprint(k)] = forJSON(e) // not all keys are text
		}
		return m
	}
	return v
}

// macInput follows the protocol's text and shares no code with the package.
func macInput(label string, parts ...[]byte) []byte {
	b := append([]byte(label), 0)
	for _, p := range parts {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	return b
}

func hmacOf(key, input []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(input)
	return h.Sum(nil)
}

func macVector(name string, key []byte, label string, parts ...[]byte) vectorMAC {
	v := vectorMAC{Name: name, Key: key, Label: label,
		Input: macInput(label, parts...), Parts: []hexa{}}
	v.MAC = hmacOf(key, v.Input)
	for _, p := range parts {
		v.Parts = append(v.Parts, p)
	}
	return v
}

// more returns the map with the given number of encoded pairs added at its end.
func more(m []byte, pairs byte, encoded string) []byte {
	return append(append([]byte{m[0] + pairs}, m[1:]...), encoded...)
}

func makeVectors(t testing.TB) vectors {
	child := childVectors(t)
	peers := peerVectors()
	return vectors{frameVectors(), child, peers, ticketVectors(),
		refusedVectors(t, child, peers), largeVectors(child, peers), takenVectors(child, peers)}
}

func frameVectors() framesFile {
	file := framesFile{About: []string{
		"Streams of frames (docs/PROTOCOL.md, section 2.2) and what a receiver with the limit finds in each.",
		"A receiver finds the same however the bytes are cut into pieces. Frames of kinds from 0x80 up are skipped.",
	}}
	add := func(name string, limit int, data []byte, found ...frame.Frame) {
		s := vectorStream{Name: name, Limit: limit, Bytes: data, Frames: []namedBody{}}
		for _, f := range found {
			s.Frames = append(s.Frames, namedBody{f.Kind.String(), byte(f.Kind), f.Body})
		}
		file.Streams = append(file.Streams, s)
	}
	frames := func(name string, frames ...frame.Frame) {
		var data []byte
		var found []frame.Frame
		for _, f := range frames {
			data = append(data, frameBytes(f.Kind, f.Body)...)
			if f.Kind < frame.KindExtension {
				found = append(found, f)
			}
		}
		add(name, access.PreAuthLimit, data, found...)
	}
	text := frame.Frame{Kind: frame.KindMessage, Body: []byte("\x65hello")}
	raw := frame.Frame{Kind: frame.KindRaw, Body: []byte{1, 2, 3}}
	frames("nothing")
	frames("a message", text)
	frames("raw bytes", raw)
	frames("raw bytes, none", frame.Frame{Kind: frame.KindRaw, Body: []byte{}})
	frames("a ping with no body", frame.Frame{Kind: frame.KindPing, Body: []byte{}})
	frames("several at once", text, raw, frame.Frame{Kind: frame.KindPong, Body: []byte{7}}, text)
	frames("a body of 256 bytes: the length is little-endian",
		frame.Frame{Kind: frame.KindRaw, Body: make([]byte, 256)})
	frames("extensions, which are skipped",
		frame.Frame{Kind: 0x80, Body: []byte("anything")}, text,
		frame.Frame{Kind: 0xff, Body: []byte{}}, raw)
	add("extensions that are counted anew behind each frame", 16,
		slices.Concat(frameBytes(0x80, make([]byte, 9)), frameBytes(frame.KindRaw, nil),
			frameBytes(0x80, make([]byte, 9)), frameBytes(frame.KindRaw, []byte{1})),
		frame.Frame{Kind: frame.KindRaw, Body: []byte{}},
		frame.Frame{Kind: frame.KindRaw, Body: []byte{1}})
	add("as many bytes of extensions as one frame may have", 16,
		slices.Concat(frameBytes(0x80, make([]byte, 9)), frameBytes(0x81, make([]byte, 5)),
			frameBytes(frame.KindRaw, nil)),
		frame.Frame{Kind: frame.KindRaw, Body: []byte{}})
	add("a frame as large as the limit", 16, frameBytes(frame.KindRaw, make([]byte, 15)),
		frame.Frame{Kind: frame.KindRaw, Body: make([]byte, 15)})
	frames("a message is any item: a map that has a tag, a key twice, an indefinite length",
		frame.Frame{Kind: frame.KindMessage, Body: []byte("\xbf\x61a\xc1\x00\x61a\x9f\xff\xff")})
	return file
}

func childVectors(t testing.TB) childFile {
	key := vectorSecret
	ticket := Ticket{vectorAddr, vectorHello.ID, newSecret(vectorSecret)}
	hello := sealedVector("the child says who it is", frame.KindHello, key,
		labelHello, vectorHello.encode())
	welcome := sealedVector("the parent's answer to that hello", frame.KindWelcome, key,
		labelWelcome, vectorWelcome.encode(), hello.Body)
	spec := sealedVector("the orders behind that welcome", frame.KindSpec, key, labelSpec,
		marshalSpec(t, vectorSpec(t)), hello.Body, welcome.Body)
	session := macVector("the key of the control connection", key, labelSession,
		hello.Body, welcome.Body)
	attach := sealedVector("the child opens its control connection", frame.KindAttach,
		session.MAC, labelAttach, vectorAttach.encode())
	version := VersionError{Ours: versionRange{2, 3}, Theirs: versionRange{1, 1}}
	f := childFile{
		About: []string{
			"A child's handshake (docs/PROTOCOL.md, section 4) with all that goes into it, and the frames after it.",
			"hello, welcome, spec and attach belong together: each MAC covers the bodies before it.",
			"tolerated: bodies in another form that a receiver must take in the place of the one of that kind above.",
		},
		Ticket: vectorTicket{Value: ticket.Encode(), ID: ticket.ID, Secret: ticket.secret(),
			Address: ticket.Addr.String()},
		MACs: []vectorMAC{
			macVector("no parts", key, "label"),
			macVector("one empty part", key, "label", nil),
			macVector("two parts", key, "label", []byte("ab"), []byte("c")),
			macVector("the same bytes in other parts", key, "label", []byte("a"), []byte("bc")),
			macVector("the same bytes in one part", key, "label", []byte("abc")),
		},
		Secret:  key,
		Hello:   hello,
		Welcome: welcome,
		Spec:    spec,
		Ready:   plainVector("the child took its orders", frame.KindReady, vectorReady.encode()),
		Failed: plainVector("the child cannot follow its orders", frame.KindFailed,
			failedFrame(failed{PhaseSpec, codeUnknownEntry, `no entry "upper"`, nil}).Body),
		Refused: plainVector("the parent does not accept the hello", frame.KindFailed,
			refusal(PhaseAuth).Body),
		Version: plainVector("the parent speaks only versions 2 and 3", frame.KindFailed,
			version.frame(PhaseAuth).Body),
		Session: session,
		Attach:  attach,
		Attached: sealedVector("the parent accepts that control connection", frame.KindAttached,
			session.MAC, labelAttached, attached{}.encode(), attach.Body),
		Open: []vectorFrame{
			plainVector("a message", frame.KindMessage,
				[]byte("\xa2\x62op\x65upper\x64text\x65hello")),
			plainVector("raw bytes", frame.KindRaw, []byte{0, 1, 0xfe, 0xff}),
			plainVector("a ping", frame.KindPing, []byte{1, 2, 3, 4, 5, 6, 7, 8}),
			plainVector("the pong that answers it", frame.KindPong, []byte{1, 2, 3, 4, 5, 6, 7, 8}),
			plainVector("please stop, within two seconds", frame.KindCancel,
				frame.Cancel{Reason: "shutting down", Grace: 2 * time.Second}.Frame().Body),
			plainVector("please stop, with nothing said", frame.KindCancel,
				frame.Cancel{}.Frame().Body),
			plainVector("an orderly end", frame.KindGoodbye, []byte("\xa1\x66status\x00")),
			plainVector("an orderly end with a status and a reason", frame.KindGoodbye,
				[]byte("\xa2\x66status\x03\x66reason\x69disk full")),
		},
	}
	state := "attaching"
	control := func(what, does string, kind frame.Kind, body []byte) {
		f.Control = append(f.Control,
			vectorControl{what, state, kind.String(), body, frameBytes(kind, body), does})
	}
	accept := func(key []byte, attach, payload []byte) []byte {
		return seal(key, labelAttached, payload, attach)
	}
	const at = frame.KindAttached
	control("the parent accepts the connection", "accepted", at, f.Attached.Body)
	control("keys that are not known", "accepted", at,
		accept(session.MAC, attach.Body, []byte("\xa1\x65later\x01")))
	control("a wrong MAC", "go on", at, accept(key, attach.Body, attached{}.encode()))
	control("the answer to another attach", "go on", at,
		accept(session.MAC, nil, attached{}.encode()))
	control("a payload that is no map", "go on", at,
		accept(session.MAC, attach.Body, []byte("\x80")))
	control("the parent does not accept the connection", "go on", frame.KindFailed,
		refusal(PhaseAuth).Body)
	control("a failed that cannot be read", "go on", frame.KindFailed, []byte("\xf6"))
	control("a cancel before the answer", "go on", frame.KindCancel, frame.Cancel{}.Frame().Body)
	state = "attached"
	control("please stop", "stop", frame.KindCancel, frame.Cancel{}.Frame().Body)
	control("a cancel that cannot be read", "stop", frame.KindCancel, []byte("\xa1\x65grace\x20"))
	control("a cancel with no body", "stop", frame.KindCancel, nil)
	control("is the child alive?", "pong", frame.KindPing, []byte("at 12:00"))
	control("the parent lets the child go", "exit", frame.KindGoodbye, []byte("\xa1\x66status\x00"))
	control("a goodbye that cannot be read", "exit", frame.KindGoodbye, []byte("\xa0"))
	add := func(v vectorFrame) { f.Tolerated = append(f.Tolerated, v) }
	border := func(what string, kind frame.Kind, old, new string) {
		v, label, said := hello, labelHello, [][]byte(nil)
		switch kind {
		case frame.KindWelcome:
			v, label, said = welcome, labelWelcome, [][]byte{hello.Body}
		case frame.KindSpec:
			v, label, said = spec, labelSpec, [][]byte{hello.Body, welcome.Body}
		}
		require.Equal(t, 1, bytes.Count(v.Payload, []byte(old)), "%q", old)
		payload := bytes.Replace(v.Payload, []byte(old), []byte(new), 1)
		add(sealedVector(what, kind, key, label, payload, said...))
	}
	unknown := "\x65later\xa2\x61a\x82\x01\x20\x61b\xf5"
	add(sealedVector("keys that are not known", frame.KindHello, key, labelHello,
		more(hello.Payload, 1, unknown)))
	add(sealedVector("numbers and lengths in longer forms", frame.KindHello, key, labelHello,
		bytes.Replace(hello.Payload, []byte("\x63pid\x19\x10\xe1"),
			[]byte("\x78\x03pid\x1b\x00\x00\x00\x00\x00\x00\x10\xe1"), 1)))
	add(sealedVector("versions up to one that is not there yet", frame.KindHello, key, labelHello,
		bytes.Replace(hello.Payload, []byte("\x82\x01\x01"), []byte("\x82\x01\x18\x63"), 1)))
	add(sealedVector("features that are not known", frame.KindHello, key, labelHello,
		bytes.Replace(hello.Payload, []byte("\x81\x67control"),
			[]byte("\x82\x65later\x67control"), 1)))
	name := strings.Repeat("é", 128)
	for _, f := range [][3]string{
		{"a name of 256 bytes and 128 characters", "\x68worker-1", "\x79\x01\x00" + name},
		{"an empty name", "\x68worker-1", "\x60"},
		{"the largest pid", "\x19\x10\xe1", "\x1a\x7f\xff\xff\xff"},
		{"pid 0", "\x19\x10\xe1", "\x00"},
		{"versions up to the largest number", "\x82\x01\x01",
			"\x82\x01\x1b\xff\xff\xff\xff\xff\xff\xff\xff"},
		{"a feature of 64 bytes", "\x81\x67control", "\x81\x78\x40" + strings.Repeat("é", 32)},
		{"64 features", "\x81\x67control", "\x98\x40" + strings.Repeat("\x61x", 64)},
		{"an empty list of features", "\x81\x67control", "\x80"},
	} {
		border(f[0], frame.KindHello, f[1], f[2])
	}
	add(sealedVector("eight levels of nesting", frame.KindHello, key, labelHello,
		more(hello.Payload, 1, "\x61x"+strings.Repeat("\x81", 7)+"\x00")))
	add(sealedVector("keys that are not known", frame.KindWelcome, key, labelWelcome,
		more(welcome.Payload, 1, unknown), hello.Body))
	add(sealedVector("no features, keys in another order", frame.KindWelcome, key, labelWelcome,
		append([]byte("\xa5\x65nonce\x58\x20"),
			append(bytes.Clone(vectorWelcome.nonce),
				"\x63pid\x00\x64name\x60\x62id\x61p\x67version\x01"...)...), hello.Body))
	border("a name of 256 bytes and 128 characters", frame.KindWelcome, "\x64boss",
		"\x79\x01\x00"+name)
	border("an id of 64 characters", frame.KindWelcome, "\x68parent-1",
		"\x78\x40"+strings.Repeat("~", 64))
	border("an id of one character", frame.KindWelcome, "\x68parent-1", "\x61!")
	for _, limit := range [][2]string{{"1", "\x01"}, {"2^31-1", "\x1a\x7f\xff\xff\xff"}} {
		add(sealedVector("a limit of "+limit[0], frame.KindWelcome, key, labelWelcome,
			more(welcome.Payload, 1, "\x65limit"+limit[1]), hello.Body))
	}
	for _, f := range [][3]string{
		{"a name of 256 bytes and 128 characters", "\x64name\x68worker-1",
			"\x64name\x79\x01\x00" + name},
		{"an entry with U+00A0", "\x65upper", "\x62\xc2\xa0"},
		{"a method that is a space", "\x66method\x64exec", "\x66method\x61 "},
		{"depth 1000", "\x65depth\x01", "\x65depth\x19\x03\xe8"},
	} {
		border(f[0], frame.KindSpec, f[1], f[2])
	}
	add(sealedVector("the least", frame.KindSpec, key, labelSpec,
		[]byte("\xa4\x61v\x01\x64name\x61c\x66method\x64exec\x65depth\x01"),
		hello.Body, welcome.Body))
	add(sealedVector("every field but dir, a time in args (tag 0)", frame.KindSpec, key, labelSpec,
		marshalSpec(t, fullSpec(t)), hello.Body, welcome.Body))
	add(sealedVector("keys that are not known", frame.KindSpec, key, labelSpec,
		more(spec.Payload, 1, unknown), hello.Body, welcome.Body))
	args := func(what, encoded string) {
		payload := bytes.Replace(spec.Payload,
			[]byte("\xa1\x65width\x19\x02\x80"), []byte(encoded), 1)
		v := sealedVector(what, frame.KindSpec, key, labelSpec, payload, hello.Body, welcome.Body)
		add(v)
	}
	args("args that are null", "\xf6")
	args("args with a key twice", "\xa2\x61a\x01\x61a\x01")
	args("args with bytes and text of the same octets as keys", "\xa2\x61a\x01\x41a\x01")
	args("a tag that is a key in args", "\xa1\xd8\x20\x61x\x01")
	args("args with a number under the tag of a date's text", "\x81\xc0\x20")
	args("an integer below -2^63 in args", "\xa1\x3b\x80\x00\x00\x00\x00\x00\x00\x00\x01")
	args("simple values of two bytes", "\x82\xf8\x20\xf8\xff")
	args("64 levels of nesting in args, all but the first of them tags",
		strings.Repeat("\xd8\x20", 63)+"\x00")
	args("args with a tag", "\xa1\x62at\xd8\x20\x61x")
	args("args of 65 elements", "\x98\x41"+strings.Repeat("\x00", 65))
	args("args of 65 pairs", "\xb8\x41"+manyPairs(65))
	args("64 levels of nesting in args", strings.Repeat("\x81", 63)+"\x00")
	args("64 levels of nesting in args, the last of them a tag",
		strings.Repeat("\x81", 62)+"\xd8\x20\x61x")
	args("bytes in args that are no UTF-8", "\x41\xe9")
	args("args with keys that are integers", "\xa2\x01\x02\x22\x04")
	orders := func(what, pair string) {
		add(sealedVector(what, frame.KindSpec, key, labelSpec, more(spec.Payload, 1, pair),
			hello.Body, welcome.Body))
	}
	args("300 pairs in args, with null and floats",
		"\xb9\x01\x2e"+manyPairs(300)+"\x61f\xf9\x3c\x00\x61n\xf6")
	orders("a log with an offset", "\x63log\x67DEBUG-4")
	orders("a log with an offset of nine digits", "\x63log\x6eINFO+000000012")
	orders("a log with a plus", "\x63log\x66INFO+1")
	orders("a deadline before 1970", "\x68deadline\x20")
	orders("the first deadline", "\x68deadline\x3b\x7f\xff\xff\xff\xff\xff\xff\xff")
	orders("the last deadline", "\x68deadline\x1b\x7f\xff\xff\xff\xff\xff\xff\xff")
	orders("the longest grace", "\x65grace\x1b\x7f\xff\xff\xff\xff\xff\xff\xff")
	orders("a grace of 0", "\x65grace\x00")
	orders("the dir /", "\x63dir\x61/")
	orders("an integer below -2^63 in a value that is not known",
		"\x61x\x3b\xff\xff\xff\xff\xff\xff\xff\xff")
	orders("eight levels of nesting in a value that is not known",
		"\x61x"+strings.Repeat("\x81", 7)+"\x00")
	orders("64 elements in a value that is not known", "\x61x\x98\x40"+strings.Repeat("\x00", 64))
	add(plainVector("no timings", frame.KindReady, []byte("\xa0")))
	add(plainVector("timings that are empty", frame.KindReady, []byte("\xa1\x67timings\xa0")))
	add(plainVector("a value for the parent's program", frame.KindReady,
		ready{value: []byte("\x67a value")}.encode()))
	add(plainVector("keys that are not known", frame.KindReady,
		[]byte("\xa2\x67timings\xa1\x65later\x01"+unknown)))
	add(plainVector("a code that is not known counts as error", frame.KindFailed,
		[]byte("\xa3\x65phase\x65ready\x64code\x65later\x65error\x63why")))
	add(plainVector("64 elements and 64 pairs in values that are not known", frame.KindReady,
		[]byte("\xa3\x67timings\xa0\x61x\x98\x40"+strings.Repeat("\x00", 64)+
			"\x61y\xb8\x40"+manyPairs(64))))
	add(plainVector("the longest times", frame.KindReady,
		[]byte("\xa1\x67timings\xa2\x64init\x00\x64main\x1b\x7f\xff\xff\xff\xff\xff\xff\xff")))
	add(plainVector("an empty reason and no grace", frame.KindCancel, []byte("\xa1\x66reason\x60")))
	add(plainVector("the longest grace", frame.KindCancel,
		[]byte("\xa1\x65grace\x1b\x7f\xff\xff\xff\xff\xff\xff\xff")))
	add(plainVector("a long reason", frame.KindCancel,
		[]byte("\xa1\x66reason\x79\x10\x01"+strings.Repeat("r", 4097))))
	for _, status := range []string{"\x1b", "\x3b"} {
		add(plainVector("a status at the border of 64 bits", frame.KindGoodbye,
			[]byte("\xa1\x66status"+status+"\x7f\xff\xff\xff\xff\xff\xff\xff")))
	}
	add(plainVector("keys that are not known", frame.KindCancel, []byte("\xa1"+unknown)))
	add(plainVector("keys that are not known", frame.KindGoodbye,
		[]byte("\xa2\x66status\x01"+unknown)))
	return f
}

func peerVectors() peersFile {
	left, right := vectorGreets[0].encode(), vectorGreets[1].encode()
	return peersFile{
		About: []string{
			"A handshake of two peers that share a key (docs/PROTOCOL.md, section 6) with all that goes into it.",
			"Both proofs cover both greets, the dialer's first.",
		},
		Key:         vectorKey,
		DialerGreet: plainVector("the side that connected says who it is", frame.KindGreet, left),
		AcceptorGreet: plainVector("the side that was connected to says who it is",
			frame.KindGreet, right),
		DialerProof: proofVector("the dialer proves that it knows the key",
			labelDialer, left, right),
		AcceptorProof: proofVector("the acceptor proves that it knows the key",
			labelAcceptor, left, right),
		EmptyProof: plainVector("the proof of either side when auth is same-user or none",
			frame.KindProof, encodeProof(nil)),
	}
}

func ticketVectors() ticketsFile {
	secret := strings.Repeat("0123456789abcdef", 4)
	raw, _ := hex.DecodeString(secret)
	port := func(n int) *int { return &n }
	certificate := counting(0xc0) // the SHA-256 of the certificate
	pin := hex.EncodeToString(certificate)
	f := ticketsFile{
		About: []string{
			"Tickets, as the environment variable has them (docs/PROTOCOL.md, section 3), and addresses (section 2.1).",
			"refused_tickets, refused_addresses: what must not be taken for one.",
		},
		Variable: TicketEnv,
		Tickets: []vectorTicket{
			{"a Unix socket", "1 abc " + secret + " uds:///run/x.sock", "abc",
				raw, "uds:///run/x.sock"},
			{"an address with spaces", "1 abc " + secret + " uds:///run/a  b/ x", "abc",
				raw, "uds:///run/a  b/ x"},
			{"a secret in capitals", "1 abc " + strings.ToUpper(secret) + " tcp://127.0.0.1:7000",
				"abc", raw, "tcp://127.0.0.1:7000"},
			{"every character that an id may have at its ends",
				"1 !-~ " + secret + " tcp://[::1]:7000", "!-~", raw, "tcp://[::1]:7000"},
			{"TLS, with the certificate that the parent has",
				"1 abc " + secret + " tls://192.0.2.7:7000#" + pin, "abc", raw,
				"tls://192.0.2.7:7000#" + pin},
			{"an id of 64 characters", "1 " + strings.Repeat("x", 64) + " " + secret + " uds://@n",
				strings.Repeat("x", 64), raw, "uds://@n"},
		},
		Addresses: []vectorAddress{
			{Text: "uds:///run/user/1000/x.sock", Scheme: "uds", Path: "/run/user/1000/x.sock"},
			{Text: "uds:///tmp/a dir/100%25 x?#y", Scheme: "uds", Path: "/tmp/a dir/100%25 x?#y"},
			{Text: "uds:///", Scheme: "uds", Path: "/"},
			{Text: "uds://@name", Scheme: "uds", Abstract: "name"},
			{Text: "uds://@a/b c", Scheme: "uds", Abstract: "a/b c"},
			{Text: "tcp://127.0.0.1:7000", Scheme: "tcp", Host: "127.0.0.1", Port: port(7000)},
			{Text: "tcp://[::1]:0", Scheme: "tcp", Host: "::1", Port: port(0)},
			{Text: "tcp://[fe80::1%eth0]:80", Scheme: "tcp", Host: "fe80::1%eth0", Port: port(80)},
			{Text: "tcp://[::ffff:127.0.0.1%A_b-c.9]:1", Scheme: "tcp",
				Host: "::ffff:127.0.0.1%A_b-c.9", Port: port(1)},
			{Text: "tcp://[:::]:1", Scheme: "tcp", Host: ":::", Port: port(1)},
			{Text: "tcp://256.0.0.1:1", Scheme: "tcp", Host: "256.0.0.1", Port: port(1)},
			{Text: "tcp://..:1", Scheme: "tcp", Host: "..", Port: port(1)},
			{Text: "tcp://My-host_1.example.org:65535", Scheme: "tcp",
				Host: "My-host_1.example.org", Port: port(65535)},
			{Text: "tls://192.0.2.7:7000#" + pin, Scheme: "tls", Host: "192.0.2.7",
				Port: port(7000), Pin: certificate},
			{Text: "tls://[2001:db8::1]:7000#" + pin, Scheme: "tls", Host: "2001:db8::1",
				Port: port(7000), Pin: certificate},
			{Text: "tls://example.org:7000", Scheme: "tls", Host: "example.org", Port: port(7000)},
		},
	}
	for _, r := range [][2]string{
		{"nothing", ""},
		{"another version", "2 abc " + secret + " tcp://127.0.0.1:1"},
		{"a version that begins alike", "10 abc " + secret + " tcp://127.0.0.1:1"},
		{"a space in front", " 1 abc " + secret + " tcp://127.0.0.1:1"},
		{"three fields", "1 abc " + secret},
		{"no id", "1  " + secret + " tcp://127.0.0.1:1"},
		{"an id of 65 characters",
			"1 " + strings.Repeat("x", 65) + " " + secret + " tcp://127.0.0.1:1"},
		{"an id that is not ASCII", "1 é " + secret + " tcp://127.0.0.1:1"},
		{"an id with a tab", "1 a\tb " + secret + " tcp://127.0.0.1:1"},
		{"a secret of 63 digits", "1 abc " + secret[1:] + " tcp://127.0.0.1:1"},
		{"a secret of 66 digits", "1 abc " + secret + "00 tcp://127.0.0.1:1"},
		{"a secret that is not hexadecimal", "1 abc x" + secret[1:] + " tcp://127.0.0.1:1"},
		{"two spaces before the secret", "1 abc  " + secret + " tcp://127.0.0.1:1"},
		{"no address", "1 abc " + secret + " "},
		{"TLS with no pin", "1 abc " + secret + " tls://192.0.2.7:7000"},
		{"TLS with a pin that is cut", "1 abc " + secret + " tls://192.0.2.7:7000#" + pin[1:]},
		{"a bad address", "1 abc " + secret + " ftp://127.0.0.1:1"},
	} {
		f.RefusedTickets = append(f.RefusedTickets, refusedText{r[0], r[1], "bad-ticket"})
	}
	for _, r := range [][2]string{
		{"nothing", ""},
		{"no scheme", "/run/x.sock"},
		{"host and port alone", "127.0.0.1:7000"},
		{"an unknown scheme", "udp://127.0.0.1:7000"},
		{"a scheme in capitals", "TCP://127.0.0.1:7000"},
		{"no path", "uds://"},
		{"a relative path", "uds://run/x.sock"},
		{"a path with a NUL byte", "uds:///run/x\x00y"},
		{"an abstract name of nothing", "uds://@"},
		{"an abstract name with a NUL byte", "uds://@a\x00"},
		{"no port", "tcp://127.0.0.1"},
		{"an empty port", "tcp://127.0.0.1:"},
		{"a port by name", "tcp://127.0.0.1:http"},
		{"a port that is too high", "tcp://127.0.0.1:65536"},
		{"a port with a leading zero", "tcp://127.0.0.1:07000"},
		{"no host", "tcp://:7000"},
		{"IPv6 with no brackets", "tcp://::1:7000"},
		{"a host that is none", "tcp://a b:7000"},
		{"a host that is not ASCII", "tcp://bücher:7000"},
		{"IPv4 in brackets", "tcp://[127.0.0.1]:7000"},
		{"a name in brackets", "tcp://[localhost]:7000"},
		{"nothing in brackets", "tcp://[]:7000"},
		{"another letter in brackets", "tcp://[::g]:7000"},
		{"brackets in brackets", "tcp://[[::1]]:7000"},
		{"a bracket left open", "tcp://[::1:7000"},
		{"something behind the brackets", "tcp://[::1]x:7000"},
		{"a zone of nothing", "tcp://[::1%]:7000"},
		{"a zone with a slash", "tcp://[::1%a/b]:7000"},
		{"a zone with a percent sign", "tcp://[::1%x%y]:7000"},
		{"a zone with a control character", "tcp://[::1%a\x01]:7000"},
		{"a zone with no address", "tcp://[%eth0]:7000"},
		{"a port with a plus", "tcp://127.0.0.1:+1"},
		{"a port of other digits", "tcp://127.0.0.1:٣"},
		{"a line break behind the port", "tcp://127.0.0.1:7000\n"},
		{"two pins", "tls://192.0.2.7:7000#" + pin + "#" + pin},
		{"something behind the port", "tcp://127.0.0.1:7000/x"},
		{"a pin where there is no TLS", "tcp://127.0.0.1:7000#" + pin},
		{"TLS with no port", "tls://192.0.2.7#" + pin},
		{"a pin of no digits", "tls://192.0.2.7:7000#"},
		{"a pin of 63 digits", "tls://192.0.2.7:7000#" + pin[1:]},
		{"a pin of 66 digits", "tls://192.0.2.7:7000#" + pin + "00"},
		{"a pin that is not hexadecimal", "tls://192.0.2.7:7000#x" + pin[1:]},
		{"a pin with no sign in front", "tls://192.0.2.7:7000" + pin},
		{"a space in front", " tcp://127.0.0.1:7000"},
		{"a pin of zeros", "tls://192.0.2.7:7000#" + strings.Repeat("0", 64)},
	} {
		f.RefusedAddresses = append(f.RefusedAddresses, refusedText{r[0], r[1], "bad-address"})
	}
	return f
}

func TestVectors_AreTheWire(t *testing.T) {
	for name, part := range makeVectors(t).files() {
		var made bytes.Buffer
		enc := json.NewEncoder(&made)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		require.NoError(t, enc.Encode(part))
		path := filepath.Join("..", "testdata", name)
		if *update {
			require.NoError(t, os.WriteFile(path, made.Bytes(), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), made.String(), name)
	}
}

// listenForVectors returns a Listener that expects the vectors' child.
func listenForVectors(t testing.TB, cfg ListenerConfig) (*Listener, *Expected) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l, err := Listen(ln, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l, expectVectors(t, l)
}

func expectVectors(t testing.TB, l *Listener) *Expected {
	t.Helper()
	x, err := l.expect(vectorHello.ID, newSecret(vectorSecret), Expectation{})
	require.NoError(t, err)
	x.SetPID(0)
	return x
}

func TestVectors_AreAccepted(t *testing.T) {
	v := makeVectors(t).Child
	l, _ := listenForVectors(t, ListenerConfig{})
	c, err := l.checkHello(nil, 0, v.Hello.Body)
	require.NoError(t, err)
	assert.Equal(t, vectorHello, c.hello)
	ours := versionRange{1, 1}
	w, err := openWelcome(v.Secret, v.Hello.Body, v.Welcome.Body, ours)
	require.NoError(t, err)
	assert.Equal(t, vectorWelcome, w)
	spec, err := openSpec(startMAC(v.Secret, labelSpec, v.Hello.Body, v.Welcome.Body), v.Spec.Body)
	require.NoError(t, err)
	_, err = spawnspec.Unmarshal(spec)
	require.NoError(t, err)
	var r ready
	require.NoError(t, decode(frame.KindReady, v.Ready.Body, &r))
	assert.Equal(t, vectorReady, r)
	assert.ErrorIs(t, failedError(v.Failed.Body, ours, PhaseSpec), ErrUnknownEntry)
	assert.ErrorIs(t, failedError(v.Refused.Body, ours, PhaseAuth), ErrRefused)
	assert.Equal(t, &VersionError{ours, [2]uint{2, 3}},
		failedError(v.Version.Body, ours, PhaseAuth))

	vectorPeer(l, v)
	near, far := net.Pipe()
	peer := newChannel(far, nil)
	answered := make(chan error, 1)
	go func() { answered <- vectorJoined(v).expectAttached(t.Context(), peer, v.Attach.Body) }()
	require.NoError(t, attachTo(l, newChannel(near, nil), v.Attach.Body))
	require.NoError(t, <-answered)
	assert.Equal(t, 0, l.Held().Sessions, "a session key serves one attach")
}

// vectorJoined is the vectors' child, after its handshake.
func vectorJoined(v childFile) *Joined { return &Joined{session: newSecret(v.Session.MAC)} }

func TestVectors_AnswersToAnAttach(t *testing.T) {
	v := makeVectors(t).Child
	for _, c := range v.Control {
		if c.State != "attaching" {
			continue
		}
		t.Run(c.Kind+" "+c.What, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			go far.Write(c.Frame)
			err := vectorJoined(v).expectAttached(t.Context(), newChannel(near, nil),
				v.Attach.Body)
			assert.Equal(t, c.Does == "accepted", err == nil, "%v", err)
		})
	}
}

func TestVectors_ToleratedOnes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths are those of Unix")
	}
	v := makeVectors(t).Child
	for _, f := range v.Tolerated {
		t.Run(f.Kind+" "+f.What, func(t *testing.T) {
			var err error
			switch f.Kind {
			case "hello":
				l, _ := listenForVectors(t, ListenerConfig{})
				_, err = l.checkHello(nil, 0, f.Body)
			case "welcome":
				_, err = openWelcome(v.Secret, v.Hello.Body, f.Body, versionRange{1, 1})
			case "spec":
				var spec []byte
				spec, err = openSpec(startMAC(v.Secret, labelSpec, v.Hello.Body, v.Welcome.Body),
					f.Body)
				require.NoError(t, err)
				_, err = spawnspec.Unmarshal(spec)
			case "ready":
				err = decode(frame.KindReady, f.Body, new(ready))
			case "failed":
				said := failedError(f.Body, versionRange{1, 1}, PhaseReady)
				assert.Equal(t, &FailedError{PhaseReady, "why", codeError}, said)
			case "cancel":
				_, err = frame.ParseCancel(f.Body)
			case "goodbye":
				_, err = frame.ParseGoodbye(f.Body)
			default:
				t.Fatal("no such kind here")
			}
			require.NoError(t, err)
		})
	}
}

func TestVectors_TicketsAndAddresses(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths are those of Unix")
	}
	v := makeVectors(t)
	for _, want := range append(v.Tickets.Tickets, v.Child.Ticket) {
		ticket, err := ParseTicket(want.Value)
		require.NoError(t, err, want.Name)
		assert.Equal(t, want.ID, ticket.ID)
		assert.Equal(t, want.Secret, hexa(ticket.secret()))
		assert.Equal(t, want.Address, ticket.Addr.String())
	}
	for _, r := range v.Tickets.RefusedTickets {
		_, err := ParseTicket(r.Text)
		require.ErrorIs(t, err, ErrBadTicket, r.Name)
	}
	for _, want := range v.Tickets.Addresses {
		addr, err := transport.ParseAddr(want.Text)
		require.NoError(t, err)
		assert.Equal(t, want.Scheme, addr.Scheme)
		target := want.Path
		switch {
		case want.Abstract != "":
			target = "@" + want.Abstract
		case want.Port != nil:
			host, port, err := net.SplitHostPort(addr.Target)
			require.NoError(t, err)
			assert.Equal(t, want.Host, host)
			number, err := net.LookupPort("tcp", port)
			require.NoError(t, err)
			assert.Equal(t, *want.Port, number)
			target = addr.Target
		}
		assert.Equal(t, target, addr.Target)
		var pin [32]byte
		copy(pin[:], want.Pin)
		assert.Equal(t, pin, addr.Pin)
	}
	for _, r := range v.Tickets.RefusedAddresses {
		_, err := transport.ParseAddr(r.Text)
		require.ErrorAs(t, err, new(*transport.AddrError), r.Name)
	}
}

func attachTo(l *Listener, ch *transport.Channel, body []byte) error {
	return l.acceptAttach(context.Background(), ch, origin{}, body)
}

// vectorPeer adds the vectors' child as a peer. It may attach its control
// connection.
func vectorPeer(l *Listener, v childFile) *Peer {
	p := &Peer{Identity: Identity{ID: vectorHello.ID}, l: l, session: newSecret(v.Session.MAC),
		attached: make(chan struct{})}
	l.addSession(p)
	return p
}

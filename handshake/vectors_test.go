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
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// The vectors in testdata/ are what implementations in other languages are tested with. Everything in them is made
// here, from the inputs below; testdata/README.md tells what each field is.

var update = flag.Bool("update", false, "write the vectors in testdata/ anew instead of checking against them")

// hexa is bytes that JSON shows in hexadecimal.
type hexa []byte

func (h hexa) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

type vectors struct {
	Frames  framesFile
	Child   childFile
	Peers   peersFile
	Tickets ticketsFile
	Refused refusedFile
	Large   largeFile
}

// files are the parts of the vectors by the names of their files.
func (v vectors) files() map[string]any {
	return map[string]any{
		"frames.json": v.Frames, "child.json": v.Child, "peers.json": v.Peers, "tickets.json": v.Tickets, "refused.json": v.Refused,
		"large.json": v.Large,
	}
}

type framesFile struct {
	About   []string       `json:"about"`
	Streams []vectorStream `json:"streams"`
}

// vectorStream is bytes on the wire and the frames that a receiver with the limit finds in them.
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

// vectorFrame is one frame and what it is made of.
type vectorFrame struct {
	What     string `json:"what"`
	Kind     string `json:"kind"`
	Fields   any    `json:"fields,omitempty"`    // byte strings are in hexadecimal
	Payload  hexa   `json:"payload,omitempty"`   // of a sealed message
	MACInput hexa   `json:"mac_input,omitempty"` // of a sealed message and of a proof
	MAC      hexa   `json:"mac,omitempty"`       // the same
	Body     hexa   `json:"body"`
	Frame    hexa   `json:"frame"`
}

// vectorControl is a frame on a child's control connection, and what the child does.
type vectorControl struct {
	What  string `json:"what"`
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
	vectorSecret  = Secret(counting(0x00))
	vectorKey     = []byte("a key that two programs share")
	vectorHello   = hello{Versions: Range{Min: 1, Max: 1}, ID: "00112233445566778899aabbccddeeff", Name: "worker-1", PID: 4321, Nonce: counting(0x20), Features: []string{FeatureControl}}
	vectorWelcome = welcome{Version: 1, ID: "parent-1", Name: "boss", PID: 1234, Nonce: counting(0x40), Features: []string{FeatureControl}}
	vectorAttach  = attach{ID: vectorHello.ID, Nonce: counting(0x60)}
	vectorReady   = ready{Timings{Init: 1_000_000_000, Main: 1_000_200_000, Connected: 1_000_300_000, Accepted: 1_000_400_000}}
	vectorGreets  = [2]greet{
		{Versions: Range{Min: 1, Max: 1}, ID: "left", Name: "dialer", PID: 11, Nonce: counting(0x80), Auth: authKey},
		{Versions: Range{Min: 1, Max: 2}, ID: "right", Name: "acceptor", PID: 12, Nonce: counting(0xa0), Auth: authKey},
	}
	vectorAddr = transport.Addr{Scheme: transport.SchemeUDS, Target: "/run/user/1000/a b.sock"}
)

func vectorSpec(t testing.TB) *spawnspec.Spec {
	t.Helper()
	return &spawnspec.Spec{
		Name: "worker-1", Entry: "upper", Args: map[string]any{"width": 640}, Method: "exec", Depth: 1,
		Parent: spawnspec.Identity{ID: vectorWelcome.ID, Name: vectorWelcome.Name, PID: vectorWelcome.PID},
	}
}

// fullSpec has every field.
func fullSpec(t testing.TB) *spawnspec.Spec {
	t.Helper()
	s := vectorSpec(t)
	s.Vars = map[string]any{"region": "eu", "started": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s.Modules = []string{"metrics", "cache"}
	s.Registry = []transport.Addr{vectorAddr}
	s.Bind = []transport.Addr{{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}}
	s.LogLevel = 2
	s.Deadline = time.Unix(1_800_000_000, 0)
	s.Grace = 5 * time.Second
	return s
}

func marshalSpec(t testing.TB, s *spawnspec.Spec) []byte {
	t.Helper()
	b, err := spawnspec.Marshal(s)
	require.NoError(t, err)
	return b
}

// Making them.

func frameBytes(kind transport.Kind, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(1+len(body)))
	return append(append(b, byte(kind)), body...)
}

func plainVector(what string, kind transport.Kind, body []byte) vectorFrame {
	v := vectorFrame{What: what, Kind: kind.String(), Body: body, Frame: frameBytes(kind, body)}
	switch kind {
	case transport.KindRaw, transport.KindPing, transport.KindPong:
	default:
		v.Fields = readable(body)
	}
	return v
}

func sealedVector(what string, kind transport.Kind, key []byte, label string, payload []byte, said ...[]byte) vectorFrame {
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
	return vectorFrame{What: what, Kind: "proof", MACInput: input, MAC: mac, Body: body, Frame: frameBytes(transport.KindProof, body)}
}

// readable decodes a message for people to read.
func readable(payload []byte) any {
	mode, err := cbor.DecOptions{MaxNestedLevels: 64}.DecMode()
	if err != nil {
		panic(err)
	}
	var v any
	if err := mode.Unmarshal(payload, &v); err != nil {
		panic(err)
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
			m[k.(string)] = forJSON(e)
		}
		return m
	}
	return v
}

// macInput is written out here once more, from the protocol's text.
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
	v := vectorMAC{Name: name, Key: key, Label: label, Input: macInput(label, parts...), Parts: []hexa{}}
	v.MAC = hmacOf(key, v.Input)
	for _, p := range parts {
		v.Parts = append(v.Parts, p)
	}
	return v
}

// more returns the map with so many more pairs at its end.
func more(m []byte, pairs byte, encoded string) []byte {
	return append(append([]byte{m[0] + pairs}, m[1:]...), encoded...)
}

func makeVectors(t testing.TB) vectors {
	child := childVectors(t)
	peers := peerVectors()
	return vectors{frameVectors(), child, peers, ticketVectors(), refusedVectors(t, child, peers), largeVectors(child)}
}

func frameVectors() framesFile {
	file := framesFile{About: []string{
		"Streams of frames (docs/PROTOCOL.md, section 2.2) and what a receiver with the limit finds in each.",
		"A receiver finds the same however the bytes are cut into pieces. Frames of kinds from 0x80 up are skipped.",
	}}
	add := func(name string, limit int, data []byte, found ...transport.Frame) {
		s := vectorStream{Name: name, Limit: limit, Bytes: data, Frames: []namedBody{}}
		for _, f := range found {
			s.Frames = append(s.Frames, namedBody{f.Kind.String(), byte(f.Kind), f.Body})
		}
		file.Streams = append(file.Streams, s)
	}
	frames := func(name string, frames ...transport.Frame) {
		var data []byte
		var found []transport.Frame
		for _, f := range frames {
			data = append(data, frameBytes(f.Kind, f.Body)...)
			if f.Kind < transport.KindExtension {
				found = append(found, f)
			}
		}
		add(name, PreAuthLimit, data, found...)
	}
	text := transport.Frame{Kind: transport.KindMessage, Body: []byte("\x65hello")}
	raw := transport.Frame{Kind: transport.KindRaw, Body: []byte{1, 2, 3}}
	frames("nothing")
	frames("a message", text)
	frames("raw bytes", raw)
	frames("raw bytes, none", transport.Frame{Kind: transport.KindRaw, Body: []byte{}})
	frames("a ping with no body", transport.Frame{Kind: transport.KindPing, Body: []byte{}})
	frames("several at once", text, raw, transport.Frame{Kind: transport.KindPong, Body: []byte{7}}, text)
	frames("a body of 256 bytes: the length is little-endian", transport.Frame{Kind: transport.KindRaw, Body: make([]byte, 256)})
	frames("extensions, which are skipped",
		transport.Frame{Kind: 0x80, Body: []byte("anything")}, text, transport.Frame{Kind: 0xff, Body: []byte{}}, raw)
	add("a frame as large as the limit", 16, frameBytes(transport.KindRaw, make([]byte, 15)), transport.Frame{Kind: transport.KindRaw, Body: make([]byte, 15)})
	frames("a message is any item: a map that has a tag, a key twice, an indefinite length",
		transport.Frame{Kind: transport.KindMessage, Body: []byte("\xbf\x61a\xc1\x00\x61a\x9f\xff\xff")})
	return file
}

func childVectors(t testing.TB) childFile {
	key := vectorSecret[:]
	ticket := Ticket{Addr: vectorAddr, ID: vectorHello.ID, Secret: vectorSecret}
	hello := sealedVector("the child says who it is", transport.KindHello, key, labelHello, vectorHello.encode())
	welcome := sealedVector("the parent's answer to that hello", transport.KindWelcome, key, labelWelcome, vectorWelcome.encode(), hello.Body)
	spec := sealedVector("the orders behind that welcome", transport.KindSpec, key, labelSpec, marshalSpec(t, vectorSpec(t)), hello.Body, welcome.Body)
	session := macVector("the key of the control connection", key, labelSession, hello.Body, welcome.Body)
	version := VersionError{Ours: Range{Min: 2, Max: 3}, Theirs: Range{Min: 1, Max: 1}}
	f := childFile{
		About: []string{
			"A child's handshake (docs/PROTOCOL.md, section 4) with all that goes into it, and the frames after it.",
			"hello, welcome, spec and attach belong together: each MAC covers the bodies before it.",
			"tolerated: bodies in another form that a receiver must take in the place of the one of that kind above.",
		},
		Ticket: vectorTicket{Value: ticket.Encode(), ID: ticket.ID, Secret: ticket.Secret[:], Address: ticket.Addr.String()},
		MACs: []vectorMAC{
			macVector("no parts", key, "label"),
			macVector("one empty part", key, "label", nil),
			macVector("two parts", key, "label", []byte("ab"), []byte("c")),
			macVector("the same bytes in other parts", key, "label", []byte("a"), []byte("bc")),
			macVector("the same bytes in one part", key, "label", []byte("abc")),
			macVector("an empty key", []byte{}, "label", []byte("abc")),
		},
		Secret:  key,
		Hello:   hello,
		Welcome: welcome,
		Spec:    spec,
		Ready:   plainVector("the child took its orders", transport.KindReady, vectorReady.encode()),
		Failed: plainVector("the child cannot follow its orders", transport.KindFailed,
			FailedError{PhaseSpec, CodeUnknownEntry, `no entry "upper"`}.frame(nil).Body),
		Refused: plainVector("the parent does not accept the hello", transport.KindFailed, refusal(PhaseAuth).Body),
		Version: plainVector("the parent speaks only versions 2 and 3", transport.KindFailed,
			version.said(PhaseAuth).Body),
		Session: session,
		Attach:  sealedVector("the child opens its control connection", transport.KindAttach, session.MAC, labelAttach, vectorAttach.encode()),
		Open: []vectorFrame{
			plainVector("a message", transport.KindMessage, []byte("\xa2\x62op\x65upper\x64text\x65hello")),
			plainVector("raw bytes", transport.KindRaw, []byte{0, 1, 0xfe, 0xff}),
			plainVector("a ping", transport.KindPing, []byte{1, 2, 3, 4, 5, 6, 7, 8}),
			plainVector("the pong that answers it", transport.KindPong, []byte{1, 2, 3, 4, 5, 6, 7, 8}),
			plainVector("please stop, within two seconds", transport.KindCancel,
				transport.Cancel{Reason: "shutting down", Grace: 2 * time.Second}.Frame().Body),
			plainVector("please stop, with nothing said", transport.KindCancel, transport.Cancel{}.Frame().Body),
			plainVector("an orderly end", transport.KindGoodbye, []byte("\xa1\x66status\x00")),
			plainVector("an orderly end with a status and a reason", transport.KindGoodbye, []byte("\xa2\x66status\x03\x66reason\x69disk full")),
		},
	}
	control := func(what, does string, kind transport.Kind, body []byte) {
		f.Control = append(f.Control, vectorControl{what, kind.String(), body, frameBytes(kind, body), does})
	}
	control("please stop", "stop", transport.KindCancel, transport.Cancel{}.Frame().Body)
	control("a cancel that cannot be read", "stop", transport.KindCancel, []byte("\xa1\x65grace\x20"))
	control("a cancel with no body", "stop", transport.KindCancel, nil)
	control("the parent lets the child go", "exit", transport.KindGoodbye, []byte("\xa1\x66status\x00"))
	control("a goodbye that cannot be read", "exit", transport.KindGoodbye, []byte("\xa0"))
	control("the parent does not accept the connection", "go on", transport.KindFailed, refusal(PhaseAuth).Body)
	control("a failed that cannot be read", "go on", transport.KindFailed, []byte("\xf6"))
	add := func(v vectorFrame) { f.Tolerated = append(f.Tolerated, v) }
	unknown := "\x65later\xa2\x61a\x82\x01\x20\x61b\xf5"
	add(sealedVector("keys that are not known", transport.KindHello, key, labelHello, more(hello.Payload, 1, unknown)))
	add(sealedVector("numbers and lengths in longer forms", transport.KindHello, key, labelHello,
		bytes.Replace(hello.Payload, []byte("\x63pid\x19\x10\xe1"), []byte("\x78\x03pid\x1b\x00\x00\x00\x00\x00\x00\x10\xe1"), 1)))
	add(sealedVector("versions up to one that is not there yet", transport.KindHello, key, labelHello,
		bytes.Replace(hello.Payload, []byte("\x82\x01\x01"), []byte("\x82\x01\x18\x63"), 1)))
	add(sealedVector("features that are not known", transport.KindHello, key, labelHello,
		bytes.Replace(hello.Payload, []byte("\x81\x67control"), []byte("\x82\x65later\x67control"), 1)))
	add(sealedVector("eight levels of nesting", transport.KindHello, key, labelHello, more(hello.Payload, 1, "\x61x"+strings.Repeat("\x81", 7)+"\x00")))
	add(sealedVector("keys that are not known", transport.KindWelcome, key, labelWelcome, more(welcome.Payload, 1, unknown), hello.Body))
	add(sealedVector("no features, keys in another order", transport.KindWelcome, key, labelWelcome,
		append([]byte("\xa5\x65nonce\x58\x20"), append(bytes.Clone(vectorWelcome.Nonce), "\x63pid\x00\x64name\x60\x62id\x61p\x67version\x01"...)...), hello.Body))
	add(sealedVector("the least", transport.KindSpec, key, labelSpec,
		[]byte("\xa5\x61v\x01\x64name\x61c\x66method\x64exec\x65depth\x01\x66parent\xa1\x62id\x61p"), hello.Body, welcome.Body))
	add(sealedVector("every field but dir, a time in vars (tag 0)", transport.KindSpec, key, labelSpec, marshalSpec(t, fullSpec(t)), hello.Body, welcome.Body))
	add(sealedVector("keys that are not known", transport.KindSpec, key, labelSpec, more(spec.Payload, 1, unknown), hello.Body, welcome.Body))
	args := func(what, encoded string) {
		payload := bytes.Replace(spec.Payload, []byte("\xa1\x65width\x19\x02\x80"), []byte(encoded), 1)
		v := sealedVector(what, transport.KindSpec, key, labelSpec, payload, hello.Body, welcome.Body)
		add(v)
	}
	args("args that are null", "\xf6")
	args("args with a tag", "\xa1\x62at\xd8\x20\x61x")
	args("args of 65 elements", "\x98\x41"+strings.Repeat("\x00", 65))
	args("args of 65 pairs", "\xb8\x41"+manyPairs(65))
	args("64 levels of nesting in args", strings.Repeat("\x81", 63)+"\x00")
	orders := func(what, pair string) {
		add(sealedVector(what, transport.KindSpec, key, labelSpec, more(spec.Payload, 1, pair), hello.Body, welcome.Body))
	}
	orders("vars with a tag, null, and 65 elements", "\x64vars\xa3\x61a\xd8\x20\x61x\x61b\xf6\x61c\x98\x41"+strings.Repeat("\x00", 65))
	orders("64 levels of nesting in vars", "\x64vars\xa1\x61x"+strings.Repeat("\x81", 62)+"\x00")
	orders("300 vars", "\x64vars\xb9\x01\x2c"+manyPairs(300))
	orders("1024 modules", "\x67modules\x99\x04\x00"+strings.Repeat("\x61m", 1024))
	orders("a log with an offset", "\x63log\x67DEBUG-4")
	orders("a deadline before 1970", "\x68deadline\x20")
	orders("eight levels of nesting in a value that is not known", "\x61x"+strings.Repeat("\x81", 7)+"\x00")
	orders("64 elements in a value that is not known", "\x61x\x98\x40"+strings.Repeat("\x00", 64))
	add(plainVector("no timings", transport.KindReady, []byte("\xa1\x67timings\xa0")))
	add(plainVector("keys that are not known", transport.KindReady, []byte("\xa2\x67timings\xa1\x65later\x01"+unknown)))
	add(plainVector("a code that is not known counts as error", transport.KindFailed, []byte("\xa3\x65phase\x65ready\x64code\x65later\x65error\x63why")))
	add(plainVector("64 elements and 64 pairs in values that are not known", transport.KindReady,
		[]byte("\xa3\x67timings\xa0\x61x\x98\x40"+strings.Repeat("\x00", 64)+"\x61y\xb8\x40"+manyPairs(64))))
	add(plainVector("keys that are not known", transport.KindCancel, []byte("\xa1"+unknown)))
	add(plainVector("keys that are not known", transport.KindGoodbye, []byte("\xa2\x66status\x01"+unknown)))
	return f
}

func peerVectors() peersFile {
	left, right := vectorGreets[0].encode(), vectorGreets[1].encode()
	return peersFile{
		About: []string{
			"A handshake of two peers that share a key (docs/PROTOCOL.md, section 6) with all that goes into it.",
			"Both proofs cover both greets, the dialer's first.",
		},
		Key:           vectorKey,
		DialerGreet:   plainVector("the side that connected says who it is", transport.KindGreet, left),
		AcceptorGreet: plainVector("the side that was connected to says who it is", transport.KindGreet, right),
		DialerProof:   proofVector("the dialer proves that it knows the key", labelDialer, left, right),
		AcceptorProof: proofVector("the acceptor proves that it knows the key", labelAcceptor, left, right),
		EmptyProof:    plainVector("the proof of either side when auth is same-user or none", transport.KindProof, encodeProof(nil)),
	}
}

func ticketVectors() ticketsFile {
	secret := strings.Repeat("0123456789abcdef", 4)
	raw, _ := hex.DecodeString(secret)
	port := func(n int) *int { return &n }
	certificate := counting(0xc0) // its SHA-256
	pin := hex.EncodeToString(certificate)
	f := ticketsFile{
		About: []string{
			"Tickets, as the environment variable has them (docs/PROTOCOL.md, section 3), and addresses (section 2.1).",
			"refused_tickets, refused_addresses: what must not be taken for one.",
		},
		Variable: TicketEnv,
		Tickets: []vectorTicket{
			{"a Unix socket", "1 abc " + secret + " uds:///run/x.sock", "abc", raw, "uds:///run/x.sock"},
			{"an address with spaces", "1 abc " + secret + " uds:///run/a  b/ x", "abc", raw, "uds:///run/a  b/ x"},
			{"a secret in capitals", "1 abc " + strings.ToUpper(secret) + " tcp://127.0.0.1:7000", "abc", raw, "tcp://127.0.0.1:7000"},
			{"every character that an id may have at its ends", "1 !-~ " + secret + " tcp://[::1]:7000", "!-~", raw, "tcp://[::1]:7000"},
			{"TLS, with the certificate that the parent has", "1 abc " + secret + " tls://192.0.2.7:7000#" + pin, "abc", raw, "tls://192.0.2.7:7000#" + pin},
			{"an id of 64 characters", "1 " + strings.Repeat("x", 64) + " " + secret + " uds://@n", strings.Repeat("x", 64), raw, "uds://@n"},
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
			{Text: "tcp://My-host_1.example.org:65535", Scheme: "tcp", Host: "My-host_1.example.org", Port: port(65535)},
			{Text: "tls://192.0.2.7:7000#" + pin, Scheme: "tls", Host: "192.0.2.7", Port: port(7000), Pin: certificate},
			{Text: "tls://[2001:db8::1]:7000#" + pin, Scheme: "tls", Host: "2001:db8::1", Port: port(7000), Pin: certificate},
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
		{"an id of 65 characters", "1 " + strings.Repeat("x", 65) + " " + secret + " tcp://127.0.0.1:1"},
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
		{"no port", "tcp://127.0.0.1"},
		{"an empty port", "tcp://127.0.0.1:"},
		{"a port by name", "tcp://127.0.0.1:http"},
		{"a port that is too high", "tcp://127.0.0.1:65536"},
		{"a port with a leading zero", "tcp://127.0.0.1:07000"},
		{"no host", "tcp://:7000"},
		{"IPv6 with no brackets", "tcp://::1:7000"},
		{"a host that is none", "tcp://a b:7000"},
		{"something behind the port", "tcp://127.0.0.1:7000/x"},
		{"a pin where there is no TLS", "tcp://127.0.0.1:7000#" + pin},
		{"TLS with no port", "tls://192.0.2.7#" + pin},
		{"a pin of no digits", "tls://192.0.2.7:7000#"},
		{"a pin of 63 digits", "tls://192.0.2.7:7000#" + pin[1:]},
		{"a pin of 66 digits", "tls://192.0.2.7:7000#" + pin + "00"},
		{"a pin that is not hexadecimal", "tls://192.0.2.7:7000#x" + pin[1:]},
		{"a pin of zeros", "tls://192.0.2.7:7000#" + strings.Repeat("0", 64)},
	} {
		f.RefusedAddresses = append(f.RefusedAddresses, refusedText{r[0], r[1], "bad-address"})
	}
	return f
}

func TestTheWireIsThatOfTheVectors(t *testing.T) {
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
	x, err := l.Expect(Expectation{ID: vectorHello.ID, Secret: vectorSecret})
	require.NoError(t, err)
	x.SetPID(0)
	return x
}

func TestTheVectorsAreUnderstood(t *testing.T) {
	v := makeVectors(t).Child
	l, _ := listenForVectors(t, ListenerConfig{})
	c, err := l.checkHello(nil, 0, v.Hello.Body)
	require.NoError(t, err)
	assert.Equal(t, vectorHello, c.hello)
	ours := Range{Min: 1, Max: 1}
	w, err := openWelcome(v.Secret, v.Hello.Body, v.Welcome.Body, ours)
	require.NoError(t, err)
	assert.Equal(t, vectorWelcome, w)
	spec, err := openSpec(startMAC(v.Secret, labelSpec, v.Hello.Body, v.Welcome.Body), v.Spec.Body)
	require.NoError(t, err)
	_, err = spawnspec.Unmarshal(spec)
	require.NoError(t, err)
	r, err := decodeReady(v.Ready.Body)
	require.NoError(t, err)
	assert.Equal(t, vectorReady, r)
	assert.ErrorIs(t, failedError(v.Failed.Body, ours, PhaseSpec), ErrUnknownEntry)
	assert.ErrorIs(t, failedError(v.Refused.Body, ours, PhaseAuth), ErrRefused)
	assert.Equal(t, &VersionError{ours, Range{Min: 2, Max: 3}}, failedError(v.Version.Body, ours, PhaseAuth))

	attached := vectorPeer(l, v)
	require.NoError(t, attachTo(l, nil, v.Attach.Body))
	assert.Equal(t, 0, l.Held().Sessions, "a session key serves one attach")
	attached.control = nil
}

func TestWhatTheVectorsTolerateIsUnderstood(t *testing.T) {
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
				_, err = openWelcome(v.Secret, v.Hello.Body, f.Body, Range{Min: 1, Max: 1})
			case "spec":
				var spec []byte
				spec, err = openSpec(startMAC(v.Secret, labelSpec, v.Hello.Body, v.Welcome.Body), f.Body)
				require.NoError(t, err)
				_, err = spawnspec.Unmarshal(spec)
			case "ready":
				_, err = decodeReady(f.Body)
			case "failed":
				said := failedError(f.Body, Range{Min: 1, Max: 1}, PhaseReady)
				assert.Equal(t, &FailedError{PhaseReady, CodeError, "why"}, said)
			case "cancel":
				_, err = transport.ParseCancel(f.Body)
			case "goodbye":
				_, err = transport.ParseGoodbye(f.Body)
			default:
				t.Fatal("no such kind here")
			}
			require.NoError(t, err)
		})
	}
}

func TestTheVectorsTicketsAndAddressesAreUnderstood(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths are those of Unix")
	}
	v := makeVectors(t)
	for _, want := range append(v.Tickets.Tickets, v.Child.Ticket) {
		ticket, err := ParseTicket(want.Value)
		require.NoError(t, err, want.Name)
		assert.Equal(t, want.ID, ticket.ID)
		assert.Equal(t, want.Secret, hexa(ticket.Secret[:]))
		assert.Equal(t, want.Address, ticket.Addr.String())
	}
	for _, r := range v.Tickets.RefusedTickets {
		_, err := ParseTicket(r.Text)
		require.ErrorAs(t, err, new(*TicketError), r.Name)
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

// vectorPeer is the vectors' child, which may attach its control connection.
func vectorPeer(l *Listener, v childFile) *Peer {
	session := Secret(v.Session.MAC)
	p := &Peer{Identity: Identity{ID: vectorHello.ID}, l: l, session: &session, attach: make(chan struct{})}
	l.addSession(p)
	return p
}

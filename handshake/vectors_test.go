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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew instead of checking against it")

// hexa is bytes that JSON shows in hexadecimal.
type hexa []byte

func (h hexa) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// vectors is the file that peers in other languages are tested with. All inputs are in it.
type vectors struct {
	About    []string         `json:"about"`
	Ticket   vectorTicket     `json:"ticket"`
	MACs     []vectorMAC      `json:"macs"`
	Child    vectorChild      `json:"child"`
	Peers    vectorPeers      `json:"peers"`
	Negative []vectorNegative `json:"negative"`
	Streams  []vectorStream   `json:"negative_streams"`
}

type vectorTicket struct {
	Variable string `json:"variable"`
	Value    string `json:"value"`
	ID       string `json:"id"`
	Secret   hexa   `json:"secret"`
	Address  string `json:"address"`
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
	Fields  any  `json:"fields,omitempty"`  // byte strings are in hexadecimal
	Payload hexa `json:"payload,omitempty"` // of a sealed message
	MAC     hexa `json:"mac,omitempty"`     // of a sealed message
	Body    hexa `json:"body"`
	Frame   hexa `json:"frame"`
}

type vectorChild struct {
	Secret  hexa        `json:"secret"`
	Hello   vectorFrame `json:"hello"`
	Welcome vectorFrame `json:"welcome"`
	Spec    vectorFrame `json:"spec"`
	Ready   vectorFrame `json:"ready"`
	Failed  vectorFrame `json:"failed"`
	Refused vectorFrame `json:"refused"`
	Version vectorFrame `json:"no_common_version"`
	Session hexa        `json:"session_key"`
	Attach  vectorFrame `json:"attach"`
}

type vectorPeers struct {
	Key           hexa        `json:"key"`
	DialerGreet   vectorFrame `json:"dialer_greet"`
	AcceptorGreet vectorFrame `json:"acceptor_greet"`
	DialerProof   vectorFrame `json:"dialer_proof"`
	AcceptorProof vectorFrame `json:"acceptor_proof"`
}

// vectorNegative is a body that must be refused, and why: "bad-mac" (ErrBadMAC), "protocol"
// (transport.ErrProtocol) or "unknown-peer" (ErrUnknownPeer).
type vectorNegative struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`
	Body  hexa   `json:"body"`
	Error string `json:"error"`
}

// vectorStream is bytes on the wire that are no frame for a receiver with the limit.
type vectorStream struct {
	Name  string `json:"name"`
	Limit int    `json:"limit"`
	Bytes hexa   `json:"bytes"`
	Error string `json:"error"`
}

var sentinels = map[string]error{"bad-mac": ErrBadMAC, "protocol": transport.ErrProtocol, "unknown-peer": ErrUnknownPeer}

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
)

func vectorSpec(t testing.TB) []byte {
	t.Helper()
	b, err := spawnspec.Marshal(&spawnspec.Spec{
		Name: "worker-1", Entry: "upper", Args: map[string]any{"width": 640}, Method: "exec", Depth: 1,
		Parent: spawnspec.Identity{ID: vectorWelcome.ID, Name: vectorWelcome.Name, PID: vectorWelcome.PID},
	})
	require.NoError(t, err)
	return b
}

// Making the file.

func frameBytes(kind transport.Kind, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(1+len(body)))
	return append(append(b, byte(kind)), body...)
}

func plainVector(kind transport.Kind, body []byte) vectorFrame {
	return vectorFrame{Fields: readable(body), Body: body, Frame: frameBytes(kind, body)}
}

func sealedVector(kind transport.Kind, body []byte) vectorFrame {
	s, err := open(kind, body)
	if err != nil {
		panic(err)
	}
	return vectorFrame{Fields: readable(s.Payload), Payload: s.Payload, MAC: s.MAC, Body: body, Frame: frameBytes(kind, body)}
}

// readable decodes a message for people to read.
func readable(payload []byte) any {
	var v any
	if err := cbor.Unmarshal(payload, &v); err != nil {
		panic(err)
	}
	return forJSON(v)
}

func forJSON(v any) any {
	switch v := v.(type) {
	case []byte:
		return hexa(v)
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

func makeVectors(t testing.TB) vectors {
	key := vectorSecret[:]
	helloBody := seal(key, labelHello, vectorHello.encode())
	welcomeBody := seal(key, labelWelcome, vectorWelcome.encode(), helloBody)
	specBody := seal(key, labelSpec, vectorSpec(t), helloBody, welcomeBody)
	session := sessionKey(key, helloBody, welcomeBody)[:]
	ticket := Ticket{Addr: transport.Addr{Scheme: transport.SchemeUDS, Target: "/run/user/1000/a b.sock"}, ID: vectorHello.ID, Secret: vectorSecret}
	left, right := vectorGreets[0].encode(), vectorGreets[1].encode()
	return vectors{
		About: []string{
			"Test vectors of the Spawnwire protocol, version 1; docs/PROTOCOL.md explains them.",
			"All bytes are in hexadecimal. An encoder may order a map's keys otherwise; a decoder must take these bodies.",
			"negative: a receiver that waits for the child, or has sent the hello, above must refuse each body.",
			"negative_streams: a receiver with the limit must refuse these bytes as soon as it has them.",
		},
		Ticket: vectorTicket{TicketEnv, ticket.Encode(), ticket.ID, ticket.Secret[:], ticket.Addr.String()},
		MACs: []vectorMAC{
			macVector("no parts", key, "label"),
			macVector("one empty part", key, "label", nil),
			macVector("two parts", key, "label", []byte("ab"), []byte("c")),
			macVector("the same bytes in other parts", key, "label", []byte("a"), []byte("bc")),
			macVector("the same bytes in one part", key, "label", []byte("abc")),
			macVector("an empty key", []byte{}, "label", []byte("abc")),
		},
		Child: vectorChild{
			Secret:  key,
			Hello:   sealedVector(transport.KindHello, helloBody),
			Welcome: sealedVector(transport.KindWelcome, welcomeBody),
			Spec:    sealedVector(transport.KindSpec, specBody),
			Ready:   plainVector(transport.KindReady, vectorReady.encode()),
			Failed:  plainVector(transport.KindFailed, FailedError{PhaseSpec, CodeUnknownEntry, `no entry "upper"`}.frame(nil).Body),
			Refused: plainVector(transport.KindFailed, FailedError{PhaseAuth, CodeRefused, "not accepted"}.frame(nil).Body),
			Version: plainVector(transport.KindFailed, FailedError{PhaseAuth, CodeVersion, (&VersionError{Range{Min: 1, Max: 1}, Range{Min: 2, Max: 3}}).Error()}.frame(&Range{Min: 2, Max: 3}).Body),
			Session: session,
			Attach:  sealedVector(transport.KindAttach, seal(session, labelAttach, vectorAttach.encode())),
		},
		Peers: vectorPeers{
			Key:           vectorKey,
			DialerGreet:   plainVector(transport.KindGreet, left),
			AcceptorGreet: plainVector(transport.KindGreet, right),
			DialerProof:   plainVector(transport.KindProof, encodeProof(mac(vectorKey, labelDialer, left, right))),
			AcceptorProof: plainVector(transport.KindProof, encodeProof(mac(vectorKey, labelAcceptor, left, right))),
		},
		Negative: negatives(key, helloBody, welcomeBody, specBody, session),
		Streams: []vectorStream{
			{"a length of 0", PreAuthLimit, []byte{0, 0, 0, 0, 0x10}, "protocol"},
			{"a length one above the limit", PreAuthLimit, []byte{0x01, 0x00, 0x01, 0x00, 0x10}, "protocol"},
			{"the largest length", PreAuthLimit, []byte{0xff, 0xff, 0xff, 0xff, 0x10}, "protocol"},
			{"a big-endian length", PreAuthLimit, []byte{0x00, 0x00, 0x00, 0x10, 0x10}, "protocol"},
			{"kind 0", PreAuthLimit, []byte{1, 0, 0, 0, 0x00}, "protocol"},
			{"an unknown kind below 0x80", PreAuthLimit, []byte{1, 0, 0, 0, 0x7f}, "protocol"},
			{"an HTTP request", PreAuthLimit, []byte("GET / HTTP/1.1\r\n"), "protocol"},
		},
	}
}

func negatives(key, helloBody, welcomeBody, specBody, session []byte) (list []vectorNegative) {
	add := func(kind transport.Kind, name, sentinel string, body []byte) {
		list = append(list, vectorNegative{name, kind.String(), body, sentinel})
	}
	flipped := func(b []byte, i int) []byte {
		b = slices.Clone(b)
		b[i] ^= 1
		return b
	}
	wrong := flipped(key, 31)
	payload := vectorHello.encode()
	sealHello := func(payload []byte) []byte { return seal(key, labelHello, payload) }
	withHello := func(change func(*hello)) []byte {
		h := vectorHello
		change(&h)
		return sealHello(h.encode())
	}
	const hel = transport.KindHello

	add(hel, "the last byte of the MAC is changed", "bad-mac", flipped(helloBody, len(helloBody)-1))
	add(hel, "a byte of the payload is changed", "bad-mac", flipped(helloBody, bytes.Index(helloBody, []byte("worker"))))
	add(hel, "another secret", "bad-mac", seal(wrong, labelHello, payload))
	add(hel, "the label of a welcome", "bad-mac", seal(key, labelWelcome, payload))
	add(hel, "a MAC without the parts' lengths", "bad-mac", sealed{payload, hmacOf(key, append([]byte(labelHello+"\x00"), payload...))}.encode())
	add(hel, "another id", "unknown-peer", withHello(func(h *hello) { h.ID = "ffeeddccbbaa99887766554433221100" }))
	add(hel, "truncated", "protocol", helloBody[:len(helloBody)-1])
	add(hel, "truncated to nothing", "protocol", nil)
	add(hel, "a byte too many", "protocol", append(slices.Clone(helloBody), 0))
	add(hel, "a MAC of 31 bytes", "protocol", sealed{payload, mac(key, labelHello, payload)[:31]}.encode())
	add(hel, "a MAC of 0 bytes", "protocol", sealed{payload, nil}.encode())
	add(hel, "the payload alone", "protocol", payload)
	add(hel, "a sealed message of indefinite length", "protocol", append(append([]byte{0x9f}, helloBody[1:]...), 0xff))
	add(hel, "a sealed message in a tag", "protocol", append([]byte{0xd8, 0x20}, helloBody...))
	add(hel, "a payload that is truncated", "protocol", sealHello(payload[:len(payload)-1]))
	add(hel, "a payload with a byte too many", "protocol", sealHello(append(slices.Clone(payload), 0xf6)))
	add(hel, "a duplicate key", "protocol", sealHello(append(append([]byte{payload[0] + 1}, payload[1:]...), "\x62id\x61x"...)))
	add(hel, "a duplicate key that is not known", "protocol", sealHello(append(append([]byte{payload[0] + 2}, payload[1:]...), "\x61x\x00\x61x\x00"...)))
	add(hel, "a duplicate key inside a value that is not known", "protocol", sealHello(append(append([]byte{payload[0] + 1}, payload[1:]...), "\x61x\x81\xa2\x61y\x00\x61y\x00"...)))
	add(hel, "a nonce that is an array of bytes", "protocol", sealHello(bytes.Replace(payload, append([]byte{0x58, 32}, vectorHello.Nonce...), append([]byte{0x98, 32}, bytes.Repeat([]byte{1}, 32)...), 1)))
	add(hel, "a map of indefinite length", "protocol", sealHello(append(append([]byte{0xbf}, payload[1:]...), 0xff)))
	add(hel, "a text of indefinite length", "protocol", sealHello(bytes.Replace(payload, []byte("\x68worker-1"), []byte("\x7f\x68worker-1\xff"), 1)))
	add(hel, "nine levels of nesting", "protocol", sealHello(append(append([]byte{payload[0] + 1}, payload[1:]...), "\x61x"+strings.Repeat("\x81", 8)+"\x00"...)))
	add(hel, "a tag", "protocol", sealHello(append(append([]byte{payload[0] + 1}, payload[1:]...), "\x61x\xc1\x00"...)))
	add(hel, "a key in capitals", "protocol", sealHello(bytes.Replace(payload, []byte("\x62id"), []byte("\x62ID"), 1)))
	add(hel, "text that is not UTF-8", "protocol", withHello(func(h *hello) { h.Name = "caf\xe9" }))
	add(hel, "a nonce of 31 bytes", "protocol", withHello(func(h *hello) { h.Nonce = h.Nonce[:31] }))
	add(hel, "a name of 257 bytes", "protocol", withHello(func(h *hello) { h.Name = strings.Repeat("x", 257) }))
	add(hel, "an id of 65 bytes", "protocol", withHello(func(h *hello) { h.ID = strings.Repeat("x", 65) }))
	add(hel, "an id with a space", "protocol", withHello(func(h *hello) { h.ID = "a b" }))
	add(hel, "a feature of no name", "protocol", withHello(func(h *hello) { h.Features = []string{""} }))

	const wel = transport.KindWelcome
	add(wel, "the last byte of the MAC is changed", "bad-mac", flipped(welcomeBody, len(welcomeBody)-1))
	add(wel, "another secret", "bad-mac", seal(wrong, labelWelcome, vectorWelcome.encode(), helloBody))
	add(wel, "for another hello", "bad-mac", seal(key, labelWelcome, vectorWelcome.encode(), flipped(helloBody, 40)))
	add(wel, "without the hello", "bad-mac", seal(key, labelWelcome, vectorWelcome.encode()))
	add(wel, "the hello sent back", "bad-mac", helloBody)
	add(wel, "truncated", "protocol", welcomeBody[:60])
	add(wel, "a duplicate key", "protocol", seal(key, labelWelcome, append(append([]byte{0xa7}, vectorWelcome.encode()[1:]...), "\x62id\x61x"...), helloBody))

	const spec = transport.KindSpec
	add(spec, "the last byte of the MAC is changed", "bad-mac", flipped(specBody, len(specBody)-1))
	add(spec, "for another welcome", "bad-mac", seal(key, labelSpec, []byte{0xa0}, helloBody, flipped(welcomeBody, 40)))
	add(spec, "for no welcome", "bad-mac", seal(key, labelSpec, []byte{0xa0}, helloBody))
	add(spec, "truncated", "protocol", specBody[:len(specBody)-33])

	const att = transport.KindAttach
	add(att, "the last byte of the MAC is changed", "bad-mac", flipped(seal(session, labelAttach, vectorAttach.encode()), 90))
	add(att, "the secret for a key", "bad-mac", seal(key, labelAttach, vectorAttach.encode()))
	add(att, "an unknown id", "unknown-peer", seal(session, labelAttach, attach{ID: "nobody", Nonce: vectorAttach.Nonce}.encode()))
	add(att, "truncated", "protocol", seal(session, labelAttach, vectorAttach.encode())[:50])
	return list
}

func TestTheWireIsThatOfTheVectors(t *testing.T) {
	made, err := json.MarshalIndent(makeVectors(t), "", "  ")
	require.NoError(t, err)
	made = append(made, '\n')
	path := filepath.Join("testdata", "vectors.json")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, made, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), string(made))
}

// listenForVectors returns a Listener that expects the vectors' child.
func listenForVectors(t testing.TB) *Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l, err := Listen(ln, ListenerConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	expectVectors(t, l)
	return l
}

func expectVectors(t testing.TB, l *Listener) *Expected {
	t.Helper()
	x, err := l.Expect(Expectation{ID: vectorHello.ID, Secret: vectorSecret})
	require.NoError(t, err)
	return x
}

func TestTheVectorsAreUnderstood(t *testing.T) {
	v := makeVectors(t)
	l := listenForVectors(t)
	c, err := l.checkHello(nil, 0, v.Child.Hello.Body)
	require.NoError(t, err)
	assert.Equal(t, vectorHello, c.hello)
	w, err := openWelcome(v.Child.Secret, v.Child.Hello.Body, v.Child.Welcome.Body)
	require.NoError(t, err)
	assert.Equal(t, vectorWelcome, w)
	spec, err := openSpec(v.Child.Secret, v.Child.Hello.Body, v.Child.Welcome.Body, v.Child.Spec.Body)
	require.NoError(t, err)
	_, err = spawnspec.Unmarshal(spec)
	require.NoError(t, err)
	var r ready
	require.NoError(t, decode(transport.KindReady, v.Child.Ready.Body, &r))
	assert.Equal(t, vectorReady, r)
	ours := Range{Min: 1, Max: 1}
	assert.ErrorIs(t, failedError(v.Child.Failed.Body, ours, PhaseSpec), ErrUnknownEntry)
	assert.ErrorIs(t, failedError(v.Child.Refused.Body, ours, PhaseAuth), ErrRefused)
	assert.Equal(t, &VersionError{ours, Range{Min: 2, Max: 3}}, failedError(v.Child.Version.Body, ours, PhaseAuth))

	attached := vectorPeer(l, v)
	require.NoError(t, l.acceptAttach(context.Background(), nil, v.Child.Attach.Body))
	assert.Equal(t, Held{Expected: 0}, l.Held())
	attached.control = nil
}

// vectorPeer is the vectors' child, which may attach its control connection.
func vectorPeer(l *Listener, v vectors) *Peer {
	session := Secret(v.Child.Session)
	p := &Peer{Identity: Identity{ID: vectorHello.ID}, l: l, session: &session, attach: make(chan struct{})}
	l.addSession(p)
	return p
}

func TestTheNegativeVectorsAreRefused(t *testing.T) {
	v := makeVectors(t)
	l := listenForVectors(t)
	vectorPeer(l, v)
	check := map[string]func([]byte) error{
		"hello":   func(b []byte) error { _, err := l.checkHello(nil, 0, b); return err },
		"welcome": func(b []byte) error { _, err := openWelcome(v.Child.Secret, v.Child.Hello.Body, b); return err },
		"spec": func(b []byte) error {
			_, err := openSpec(v.Child.Secret, v.Child.Hello.Body, v.Child.Welcome.Body, b)
			return err
		},
		"attach": func(b []byte) error { return l.acceptAttach(context.Background(), nil, b) },
	}
	for _, n := range v.Negative {
		t.Run(n.Kind+" "+n.Name, func(t *testing.T) {
			err := check[n.Kind](n.Body)
			require.ErrorIs(t, err, sentinels[n.Error])
			for name, other := range sentinels {
				if name != n.Error {
					assert.NotErrorIs(t, err, other)
				}
			}
		})
	}
	assert.Equal(t, Held{Expected: 1, Sessions: 1}, l.Held(), "nothing of that has disturbed the child")
	for _, s := range v.Streams {
		t.Run("stream "+s.Name, func(t *testing.T) {
			a, b := net.Pipe()
			defer b.Close()
			go b.Write(s.Bytes)
			ch := transport.New(a, transport.Config{Limit: s.Limit})
			defer ch.Abort()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := ch.ReadFrame(ctx)
			require.ErrorIs(t, err, sentinels[s.Error])
		})
	}
}

// TestWhatIsEncodedByHandIsWhatTheLibraryEncodes compares the two encoders, as one of them is ours.
func TestWhatIsEncodedByHandIsWhatTheLibraryEncodes(t *testing.T) {
	library := func(v any) []byte {
		b, err := cbor.Marshal(v)
		require.NoError(t, err)
		return b
	}
	numbers := []uint64{0, 1, 23, 24, 255, 256, 1<<16 - 1, 1 << 16, 1<<32 - 1, 1 << 32, 1<<63 - 1}
	texts := []string{"", "x", strings.Repeat("x", 23), strings.Repeat("x", 24), strings.Repeat("é", 128), strings.Repeat("x", 1<<16)}
	for i, n := range numbers {
		text := texts[i%len(texts)]
		versions := Range{Min: uint(n), Max: uint(n / 2)}
		var features []string
		for range i {
			features = append(features, text)
		}
		for _, m := range []interface{ encode() []byte }{
			hello{versions, text, text, int(n), []byte(text), features},
			welcome{uint(n), text, text, int(n), []byte(text), features},
			attach{text, []byte(text)},
			greet{versions, text, text, int(n), []byte(text), text, features},
			failed{Phase(text), text, text, nil},
			failed{PhaseAuth, text, text, &versions},
			ready{Timings{}},
			ready{Timings{Init: int64(n), Main: 5, Accepted: int64(n)}},
		} {
			require.Equal(t, library(m), m.encode(), fmt.Sprintf("%T, %d", m, n))
		}
		require.Equal(t, library([]any{[]byte(text), []byte("mac")}), sealed{[]byte(text), []byte("mac")}.encode())
		require.Equal(t, library([]byte(text)), encodeProof([]byte(text)))
	}
}

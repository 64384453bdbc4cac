package handshake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
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

type refusedFile struct {
	About   []string          `json:"about"`
	Errors  map[string]string `json:"errors"`
	Refused []vectorRefused   `json:"refused"`
}

// vectorRefused is input that a receiver in State must refuse with Error. Answer
// is its reply.
type vectorRefused struct {
	Name     string `json:"name"`
	Receiver string `json:"receiver"`
	State    string `json:"state"`
	Limit    int    `json:"limit,omitempty"`
	Kind     string `json:"kind,omitempty"` // if Bytes is a single frame
	Bytes    hexa   `json:"bytes"`
	Ends     bool   `json:"ends,omitempty"` // the stream ends after Bytes
	Error    string `json:"error"`
	Answer   string `json:"answer,omitempty"` // the code of a failed frame
	May      bool   `json:"may,omitempty"`    // the receiver may accept it, too
}

// mayTake marks what a child may accept from its own parent: faults of a payload
// with a good MAC, in fields that it does not use.
func mayTake(v *vectorRefused, child childFile) {
	label, said := labelWelcome, [][]byte{child.Hello.Body}
	switch {
	case v.Error == "bad-spec":
		label, said = labelSpec, append(said, child.Welcome.Body)
	case v.Error != "malformed" || v.Kind != frame.KindWelcome.String():
		return
	}
	s, err := open(0, v.body())
	must := slices.ContainsFunc([]string{"version", "limit", "nothing", "v that"},
		func(part string) bool { return strings.Contains(v.Name, part) })
	v.May = !must && err == nil && s.verify(child.Secret, label, said...) == nil
}

// body returns the body of the single frame in Bytes.
func (v vectorRefused) body() []byte { return v.Bytes[5:] }

// wireErrors maps the names of errors to their meanings. All implementations use
// these names. The function recognizes the error in Go.
var wireErrors = map[string]struct {
	meaning string
	is      func(error) bool
}{
	"zero-length": {"a frame with n = 0", protocolError("a frame of length 0")},
	"too-large": {"a frame with n above the receiver's limit", func(err error) bool {
		return errors.As(err, new(*transport.SizeError))
	}},
	"unknown-kind": {"a frame of a kind below 0x80 that is not in the table",
		protocolError("unknown kind")},
	"out-of-place": {"a frame of a known kind that has no place in the state",
		protocolError("frame where", "frame on an open channel")},
	"skipped-too-much": {
		"more bytes of extensions without another frame between them than one frame may have",
		protocolError("of extension frames")},
	"malformed": {
		"a body that is not the CBOR, or has not the fields and values, that its kind asks for",
		protocolError(": ")},
	"bad-mac": {"a MAC or a proof that is wrong", func(err error) bool {
		return errors.Is(err, ErrBadMAC)
	}},
	"unknown-peer": {"an id that nobody is expected with", func(err error) bool {
		return errors.Is(err, ErrUnknownPeer)
	}},
	"version": {"no version of the protocol in common", func(err error) bool {
		return errors.As(err, new(*VersionError))
	}},
	"bad-spec": {
		"a spec with a good MAC that cannot be read, has another version, or has a bad value",
		isSpecError},
	"own-id": {"a greet with the receiver's own id", protocolError("this side's own id")},
	"auth-mismatch": {"a greet with another auth than the receiver's", func(err error) bool {
		return strings.Contains(err.Error(), "the peer wants authentication by")
	}},
	"peer-gone": {"the end of the stream without a goodbye, in a frame or between two",
		func(err error) bool {
			return errors.Is(err, transport.ErrPeerGone)
		}},
	"bad-ticket": {"a ticket that cannot be used", func(err error) bool {
		return errors.Is(err, ErrBadTicket)
	}},
	"bad-address": {"a text that is no address", func(err error) bool {
		return errors.As(err, new(*transport.AddrError))
	}},
}

func protocolError(says ...string) func(error) bool {
	return func(err error) bool {
		has := func(s string) bool { return strings.Contains(err.Error(), s) }
		return errors.Is(err, transport.ErrProtocol) && slices.ContainsFunc(says, has)
	}
}

func isSpecError(err error) bool { return strings.HasPrefix(err.Error(), "spawnspec: ") }

// Each pair is a receiver and its state in docs/PROTOCOL.md.
var (
	anybody       = [2]string{"any", "any"}
	inOpen        = [2]string{"any", "open"}
	parentWaits   = [2]string{"parent", "waiting"}
	parentOrdered = [2]string{"parent", "ordered"}
	childGreeted  = [2]string{"child", "greeted"}
	childWelcomed = [2]string{"child", "welcomed"}
	peerGreeting  = [2]string{"peer", "greeting"}
	acceptorProof = [2]string{"acceptor", "proving"}
	dialerProof   = [2]string{"dialer", "proving"}
	childAttached = [2]string{"child", "attached"}
)

func refusedVectors(t testing.TB, child childFile, peers peersFile) refusedFile {
	file := refusedFile{
		About: []string{
			"What must be refused: by whom, in which state of docs/PROTOCOL.md, and with which error.",
			"Who receives is in the middle of the handshake of child.json or peers.json: MACs are of its bodies.",
			"answer: the code of the failed frame that the receiver sends before it closes; see testdata/README.md.",
		},
		Errors: make(map[string]string),
	}
	for name, e := range wireErrors {
		file.Errors[name] = e.meaning
	}
	answers := map[[2]string]string{parentWaits: codeRefused, peerGreeting: codeRefused,
		acceptorProof: codeRefused, dialerProof: codeRefused}
	var who [2]string
	add := func(name, wireError string, kind frame.Kind, body []byte) {
		v := vectorRefused{Name: name, Receiver: who[0], State: who[1], Kind: kind.String(),
			Bytes: frameBytes(kind, body), Error: wireError, Answer: answers[who]}
		switch wireError {
		case "version":
			if who != childGreeted {
				v.Answer = codeVersion
			}
		case "bad-spec":
			v.Answer = codeBadSpec
		}
		file.Refused = append(file.Refused, v)
	}
	stream := func(name, wireError string, limit int, data []byte, ends bool) {
		file.Refused = append(file.Refused,
			vectorRefused{Name: name, Receiver: who[0], State: who[1], Limit: limit, Bytes: data,
				Ends: ends, Error: wireError, Answer: answers[who]})
	}
	misplaced := func(kinds ...frame.Kind) {
		for _, k := range kinds {
			body := []byte{0xa0}
			switch k {
			case frame.KindHello:
				body = child.Hello.Body
			case frame.KindWelcome:
				body = child.Welcome.Body
			case frame.KindSpec:
				body = child.Spec.Body
			case frame.KindReady:
				body = child.Ready.Body
			case frame.KindFailed:
				body = child.Failed.Body
			case frame.KindGoodbye:
				body = []byte("\xa1\x66status\x00")
			case frame.KindGreet:
				body = peers.DialerGreet.Body
			case frame.KindProof:
				body = peers.DialerProof.Body
			case frame.KindAttach:
				body = child.Attach.Body
			case frame.KindAttached:
				body = child.Attached.Body
			}
			add("a "+k.String()+" frame", "out-of-place", k, body)
		}
	}
	flipped := func(b []byte, i int) []byte {
		b = slices.Clone(b)
		b[i] ^= 1
		return b
	}
	last := func(b []byte) []byte { return flipped(b, len(b)-1) }
	swap := func(m []byte, old, new string) []byte {
		require.Equal(t, 1, bytes.Count(m, []byte(old)), "%q", old)
		return bytes.Replace(m, []byte(old), []byte(new), 1)
	}
	key, wrong := []byte(child.Secret), flipped(child.Secret, 31)

	lacks := func(kind frame.Kind, payload []byte, wrap func([]byte) []byte, keys ...string) {
		for _, key := range keys {
			encoded := string([]byte{0x60 + byte(len(key))}) + key
			add("no "+key, "malformed", kind, wrap(swap(payload, encoded, encoded[:len(key)]+"_")))
		}
	}

	// The rules of CBOR are the same for each map of the protocol.
	cborRules := func(kind frame.Kind, payload []byte, wrap func([]byte) []byte) {
		bad := func(name string, payload []byte) { add(name, "malformed", kind, wrap(payload)) }
		bad("truncated", payload[:len(payload)-1])
		bad("a byte too many", append(slices.Clone(payload), 0xf6))
		bad("nothing", nil)
		bad("text in place of a map", []byte("\x61x"))
		bad("an array in place of a map", []byte("\x80"))
		bad("a map of indefinite length", append(append([]byte{0xbf}, payload[1:]...), 0xff))
		bad("a map in a tag", append([]byte("\xd9\xd9\xf7"), payload...))
		bad("a key twice that is not known", more(payload, 2, "\x61x\x00\x61x\x00"))
		bad("a key twice in a value that is not known",
			more(payload, 1, "\x61x\x81\xa2\x61y\x00\x61y\x00"))
		bad("an indefinite length in a value that is not known", more(payload, 1, "\x61x\x9f\xff"))
		bad("a tag in a value that is not known", more(payload, 1, "\x61x\xc1\x00"))
		bad("a key twice, once with its length in a longer form",
			more(payload, 2, "\x61x\x00\x78\x01x\x00"))
		bad("a key that is a number", more(payload, 1, "\x01\x00"))
		bad("a key that is bytes, in a value that is not known",
			more(payload, 1, "\x61x\xa1\x41y\x00"))
		bad("null", more(payload, 1, "\x61x\xf6"))
		bad("undefined in a value that is not known", more(payload, 1, "\x61x\x81\xf7"))
		bad("a float", more(payload, 1, "\x61x\xf9\x3c\x00"))
		bad("a simple value", more(payload, 1, "\x61x\xe0"))
		bad("false in two bytes", more(payload, 1, "\x61x\xf8\x14"))
		bad("a reserved initial byte", more(payload, 1, "\x61x\x1c"))
		bad("65 elements", more(payload, 1, "\x61x\x98\x41"+strings.Repeat("\x00", 65)))
		bad("65 pairs", more(payload, 1, "\x61x\xb8\x41"+manyPairs(65)))
		bad("nine levels of nesting", more(payload, 1, "\x61x"+strings.Repeat("\x81", 8)+"\x00"))
		bad("a text that is not UTF-8", more(payload, 1, "\x61x\x61\xe9"))
		bad("a text with a surrogate", more(payload, 1, "\x61x\x63\xed\xa0\x80"))
		bad("a text with a character in too many bytes", more(payload, 1, "\x61x\x62\xc0\xaf"))
		bad("a count of pairs that lies",
			append([]byte("\xbb\x7f\xff\xff\xff\xff\xff\xff\xff"), payload[1:]...))
	}

	who = anybody
	stream("a length of 0", "zero-length", access.PreAuthLimit, []byte{0, 0, 0, 0, 0x10}, false)
	stream("a length one above the limit", "too-large", access.PreAuthLimit,
		[]byte{0x01, 0x00, 0x01, 0x00, 0x10}, false)
	stream("the largest length", "too-large", access.PreAuthLimit,
		[]byte{0xff, 0xff, 0xff, 0xff, 0x10}, false)
	stream("a big-endian length", "too-large", access.PreAuthLimit,
		[]byte{0x00, 0x00, 0x00, 0x10, 0x10}, false)
	stream("too large an extension", "too-large", access.PreAuthLimit,
		[]byte{0x01, 0x00, 0x01, 0x00, 0x80}, false)
	stream("kind 0", "unknown-kind", access.PreAuthLimit, []byte{1, 0, 0, 0, 0x00}, false)
	stream("an unknown kind below 0x80", "unknown-kind", access.PreAuthLimit,
		[]byte{1, 0, 0, 0, 0x7f}, false)
	stream("an unknown kind below 0x80, whose body does not come", "unknown-kind",
		access.PreAuthLimit, []byte{5, 0, 0, 0, 0x7f}, true)
	stream("too many extensions, and the last one's body does not come", "skipped-too-much", 16,
		append(frameBytes(0x80, make([]byte, 15)), 5, 0, 0, 0, 0x80), true)
	stream("an HTTP request", "too-large", access.PreAuthLimit,
		[]byte("GET / HTTP/1.1\r\n\r\n"), false)
	stream("the end in a header", "peer-gone", access.PreAuthLimit, []byte{5, 0, 0}, true)
	stream("the end in a body", "peer-gone", access.PreAuthLimit,
		[]byte{3, 0, 0, 0, 0x02, 0xff}, true)
	stream("the end between two frames", "peer-gone", access.PreAuthLimit,
		[]byte{1, 0, 0, 0, 0x80}, true)
	stream("17 bytes of extensions where one frame may have 16", "skipped-too-much", 16,
		append(frameBytes(0x80, make([]byte, 15)), frameBytes(0x80, nil)...), false)

	who = parentWaits
	const hel = frame.KindHello
	hello := []byte(child.Hello.Payload)
	sealHello := func(payload []byte) []byte { return seal(key, labelHello, payload) }
	field := func(name, old, new string) {
		add(name, "malformed", hel, sealHello(swap(hello, old, new)))
	}
	body := []byte(child.Hello.Body)
	add("the last byte of the MAC is changed", "bad-mac", hel, last(body))
	add("a byte of the payload is changed", "bad-mac", hel,
		flipped(body, bytes.Index(body, []byte("worker"))))
	add("another secret", "bad-mac", hel, seal(wrong, labelHello, hello))
	add("the label of a welcome", "bad-mac", hel, seal(key, labelWelcome, hello))
	add("a MAC without the parts' lengths", "bad-mac", hel,
		sealed{hello, hmacOf(key, append([]byte(labelHello+"\x00"), hello...))}.encode())
	add("another id", "unknown-peer", hel,
		sealHello(swap(hello, vectorHello.ID, "ffeeddccbbaa99887766554433221100")))
	add("no version in common", "version", hel,
		sealHello(swap(hello, "\x82\x01\x01", "\x82\x02\x03")))
	add("a sealed message that is truncated", "malformed", hel, body[:len(body)-1])
	add("a sealed message with a byte too many", "malformed", hel, append(slices.Clone(body), 0))
	add("a sealed message of indefinite length", "malformed", hel,
		append(append([]byte{0x9f}, body[1:]...), 0xff))
	add("a sealed message in a tag", "malformed", hel, append([]byte{0xd8, 0x20}, body...))
	add("a sealed message of three", "malformed", hel, append(append([]byte{0x83}, body[1:]...), 0))
	add("an empty body", "malformed", hel, nil)
	add("the payload alone", "malformed", hel, hello)
	add("a MAC of 31 bytes", "malformed", hel, sealed{hello, child.Hello.MAC[:31]}.encode())
	add("a MAC of 0 bytes", "malformed", hel, sealed{hello, nil}.encode())
	cborRules(hel, hello, sealHello)
	add("a key twice", "malformed", hel, sealHello(more(hello, 1, "\x62id\x61x")))
	field("a text of indefinite length", "\x68worker-1", "\x7f\x68worker-1\xff")
	field("a key in capitals", "\x62id", "\x62ID")
	field("an id of bytes", "\x62id\x78\x20", "\x62id\x58\x20")
	field("an empty id", "\x62id\x78\x20"+vectorHello.ID, "\x62id\x60")
	field("an id of 65 bytes", "\x62id\x78\x20"+vectorHello.ID,
		"\x62id\x78\x41"+strings.Repeat("x", 65))
	field("an id with a space", "\x62id\x78\x20"+vectorHello.ID, "\x62id\x63a b")
	field("a name of 257 bytes", "\x68worker-1", "\x79\x01\x01"+strings.Repeat("x", 257))
	field("a name that is not UTF-8", "\x68worker-1", "\x64caf\xe9")
	field("a name that is a number", "\x68worker-1", "\x05")
	field("a negative pid", "\x19\x10\xe1", "\x20")
	field("a pid that is null", "\x19\x10\xe1", "\xf6")
	field("a pid that is a simple value", "\x19\x10\xe1", "\xe1")
	field("a name that is null", "\x68worker-1", "\xf6")
	field("a pid of 2 to the 31st", "\x19\x10\xe1", "\x1a\x80\x00\x00\x00")
	field("a pid that is a float", "\x19\x10\xe1", "\xf9\x3c\x00")
	nonce := "\x58\x20" + string(vectorHello.nonce)
	field("a nonce of 31 bytes", nonce, "\x58\x1f"+string(vectorHello.nonce[:31]))
	field("a nonce that is text", nonce, "\x78\x20"+string(vectorHello.nonce))
	field("a nonce that is an array of bytes", nonce, "\x98\x20"+strings.Repeat("\x01", 32))
	lacks(hel, hello, sealHello, "id", "name", "pid", "nonce")
	field("versions that are one number", "\x82\x01\x01", "\x01")
	field("versions that are three numbers", "\x82\x01\x01", "\x83\x01\x01\x01")
	field("versions from 0", "\x82\x01\x01", "\x82\x00\x01")
	field("versions of which the first is higher", "\x82\x01\x01", "\x82\x02\x01")
	field("no versions", "\x68versions", "\x68varsions")
	field("versions that are null", "\x82\x01\x01", "\xf6")
	field("features that are null", "\x81\x67control", "\xf6")
	field("features that are text", "\x81\x67control", "\x67control")
	field("a feature that is bytes", "\x81\x67control", "\x81\x47control")
	field("a feature of no name", "\x81\x67control", "\x81\x60")
	field("a feature with a name of 65 bytes", "\x81\x67control",
		"\x81\x78\x41"+strings.Repeat("x", 65))
	field("65 features", "\x81\x67control", "\x98\x41"+strings.Repeat("\x61x", 65))
	misplaced(frame.KindMessage, frame.KindRaw, frame.KindWelcome, frame.KindSpec,
		frame.KindReady, frame.KindFailed,
		frame.KindGreet, frame.KindProof, frame.KindAttached, frame.KindCancel, frame.KindGoodbye,
		frame.KindPing, frame.KindPong)

	const att = frame.KindAttach
	session := []byte(child.Session.MAC)
	add("the last byte of the MAC is changed", "bad-mac", att, last(child.Attach.Body))
	add("the secret for a key", "bad-mac", att, seal(key, labelAttach, child.Attach.Payload))
	add("the label of a hello", "bad-mac", att, seal(session, labelHello, child.Attach.Payload))
	add("an unknown id", "unknown-peer", att,
		seal(session, labelAttach, attach{"nobody", vectorAttach.nonce}.encode()))
	add("a sealed message that is truncated", "malformed", att, child.Attach.Body[:50])
	add("a nonce of 31 bytes", "malformed", att,
		seal(session, labelAttach, attach{vectorAttach.id, vectorAttach.nonce[:31]}.encode()))
	sealAttach := func(p []byte) []byte { return seal(session, labelAttach, p) }
	lacks(att, child.Attach.Payload, sealAttach, "id", "nonce")
	cborRules(att, child.Attach.Payload, sealAttach)

	who = parentOrdered
	misplaced(frame.KindMessage, frame.KindRaw, frame.KindHello, frame.KindWelcome, frame.KindSpec,
		frame.KindGreet, frame.KindProof, frame.KindAttach, frame.KindAttached, frame.KindCancel,
		frame.KindGoodbye, frame.KindPing, frame.KindPong)
	plain := func(p []byte) []byte { return p }
	cborRules(frame.KindReady, child.Ready.Body, plain)
	add("timings that are a number", "malformed", frame.KindReady, []byte("\xa1\x67timings\x01"))
	add("a value that is not bytes", "malformed", frame.KindReady, []byte("\xa1\x65value\x01"))
	add("a time that is negative", "malformed", frame.KindReady,
		[]byte("\xa1\x67timings\xa1\x64main\x20"))
	add("a time of 2 to the 63rd", "malformed", frame.KindReady,
		[]byte("\xa1\x67timings\xa1\x64main\x1b\x80\x00\x00\x00\x00\x00\x00\x00"))
	add("a time that is null", "malformed", frame.KindReady,
		[]byte("\xa1\x67timings\xa1\x64main\xf6"))
	add("a time twice", "malformed", frame.KindReady,
		[]byte("\xa1\x67timings\xa2\x64main\x01\x64main\x01"))
	badFailed := func(body []byte) {
		cborRules(frame.KindFailed, body, plain)
		lacks(frame.KindFailed, body, plain, "phase", "code", "error")
		add("an error that is a number", "malformed", frame.KindFailed,
			[]byte("\xa3\x65phase\x65ready\x64code\x65error\x65error\x01"))
		for _, f := range [][2]string{
			{"versions of which the first is higher", "\x82\x02\x01"},
			{"versions from 0", "\x82\x00\x01"}, {"versions that are one number", "\x01"},
			{"versions that are null", "\xf6"}, {"versions that are text", "\x82\x611\x611"},
		} {
			add(f[0], "malformed", frame.KindFailed, more(body, 1, "\x68versions"+f[1]))
		}
	}
	badFailed(child.Failed.Body)

	who = childGreeted
	const wel = frame.KindWelcome
	welcome := []byte(child.Welcome.Payload)
	sealWelcome := func(payload []byte) []byte {
		return seal(key, labelWelcome, payload, child.Hello.Body)
	}
	add("the last byte of the MAC is changed", "bad-mac", wel, last(child.Welcome.Body))
	add("another secret", "bad-mac", wel, seal(wrong, labelWelcome, welcome, child.Hello.Body))
	add("for another hello", "bad-mac", wel,
		seal(key, labelWelcome, welcome, flipped(child.Hello.Body, 40)))
	add("without the hello", "bad-mac", wel, seal(key, labelWelcome, welcome))
	add("the hello's payload in place of its body", "bad-mac", wel,
		seal(key, labelWelcome, welcome, child.Hello.Payload))
	add("the hello sent back", "bad-mac", wel, child.Hello.Body)
	add("a payload that is not CBOR, with a wrong MAC: the MAC comes first", "bad-mac", wel,
		seal(wrong, labelWelcome, []byte{0xff}, child.Hello.Body))
	add("a version that the child does not speak", "version", wel,
		sealWelcome(swap(welcome, "\x67version\x01", "\x67version\x02")))
	add("version 0", "version", wel,
		sealWelcome(swap(welcome, "\x67version\x01", "\x67version\x00")))
	add("a sealed message that is truncated", "malformed", wel, child.Welcome.Body[:60])
	three, _ := cbor.Marshal([][]byte{welcome, child.Welcome.MAC, {}})
	textual, _ := cbor.Marshal([]any{"text", []byte(child.Welcome.MAC)})
	short, _ := cbor.Marshal([][]byte{welcome, child.Welcome.MAC[:31]})
	add("a sealed message of three", "malformed", wel, three)
	add("a payload that is text", "malformed", wel, textual)
	add("a MAC of 31 bytes", "malformed", wel, short)
	add("a sealed message in a tag", "malformed", wel,
		append([]byte{0xd8, 0x20}, child.Welcome.Body...))
	add("a sealed message of indefinite length", "malformed", wel,
		append(append([]byte{0x9f}, child.Welcome.Body[1:]...), 0xff))
	stream("a length of 65537", "too-large", 0, []byte{0x01, 0x00, 0x01, 0x00, 0x11}, false)
	stream("a spec above the limit of the welcome", "too-large", 0, slices.Concat(
		frameBytes(wel, sealWelcome(more(welcome, 1, "\x65limit\x18\x40"))),
		child.Spec.Frame), false)
	cborRules(wel, welcome, sealWelcome)
	add("a key twice", "malformed", wel, sealWelcome(more(welcome, 1, "\x62id\x61x")))
	add("a limit of 0", "malformed", wel, sealWelcome(more(welcome, 1, "\x65limit\x00")))
	add("a limit of 2^31", "malformed", wel,
		sealWelcome(more(welcome, 1, "\x65limit\x1a\x80\x00\x00\x00")))
	add("a limit that is text", "malformed", wel, sealWelcome(more(welcome, 1, "\x65limit\x61x")))
	add("a nonce of 31 bytes", "malformed", wel,
		sealWelcome(swap(welcome, "\x58\x20"+string(vectorWelcome.nonce),
			"\x58\x1f"+string(vectorWelcome.nonce[:31]))))
	badPeer := func(kind frame.Kind, payload []byte, id, name, pid string,
		wrap func([]byte) []byte) {
		bad := func(name string, payload []byte) { add(name, "malformed", kind, wrap(payload)) }
		bad("an empty id", swap(payload, "\x62id"+id, "\x62id\x60"))
		bad("an id of 65 bytes",
			swap(payload, "\x62id"+id, "\x62id\x78\x41"+strings.Repeat("x", 65)))
		bad("an id with a space", swap(payload, "\x62id"+id, "\x62id\x63a b"))
		bad("an id with DEL", swap(payload, "\x62id"+id, "\x62id\x61\x7f"))
		bad("an id that is not ASCII", swap(payload, "\x62id"+id, "\x62id\x62é"))
		bad("a name of 257 bytes", swap(payload, name, "\x79\x01\x01"+strings.Repeat("x", 257)))
		bad("a name of 258 bytes and 129 characters",
			swap(payload, name, "\x79\x01\x02"+strings.Repeat("é", 129)))
		bad("a name that is bytes", swap(payload, name, "\x41x"))
		bad("an id that is bytes", swap(payload, "\x62id"+id, "\x62id\x41x"))
		bad("a pid that is true", swap(payload, pid, "\x63pid\xf5"))
		at := bytes.Index(payload, []byte("\x65nonce\x58\x20"))
		bad("a nonce that is text", slices.Concat(payload[:at],
			[]byte("\x65nonce\x78\x20"+strings.Repeat("n", 32)), payload[at+8+32:]))
		bad("a pid of 2 to the 31st", swap(payload, pid, "\x63pid\x1a\x80\x00\x00\x00"))
		bad("a negative pid", swap(payload, pid, "\x63pid\x20"))
	}
	badFeatures := func(kind frame.Kind, payload []byte, wrap func(value string) []byte) {
		for _, f := range [][2]string{
			{"features that are null", "\xf6"}, {"a feature of no name", "\x81\x60"},
			{"a feature that is a number", "\x81\x01"}, {"a feature that is bytes", "\x81\x41x"},
			{"features that are text", "\x67control"}, {"features that are a map", "\xa0"},
			{"a feature with a name of 65 bytes", "\x81\x78\x41" + strings.Repeat("x", 65)},
			{"65 features", "\x98\x41" + strings.Repeat("\x61x", 65)},
		} {
			add(f[0], "malformed", kind, wrap(f[1]))
		}
	}
	badPeer(wel, welcome, "\x68parent-1", "\x64boss", "\x63pid\x19\x04\xd2", sealWelcome)
	lacks(wel, welcome, sealWelcome, "version", "id", "name", "pid", "nonce")
	badFeatures(wel, welcome, func(v string) []byte {
		return sealWelcome(swap(welcome, "\x81\x67control", v))
	})
	add("a version that is null", "malformed", wel,
		sealWelcome(swap(welcome, "\x67version\x01", "\x67version\xf6")))
	misplaced(frame.KindMessage, frame.KindRaw, frame.KindHello, frame.KindSpec, frame.KindReady,
		frame.KindGreet, frame.KindProof, frame.KindAttach, frame.KindAttached, frame.KindCancel,
		frame.KindGoodbye, frame.KindPing, frame.KindPong)
	badFailed(child.Refused.Body)

	who = childWelcomed
	const sp = frame.KindSpec
	spec := []byte(child.Spec.Payload)
	sealSpec := func(payload []byte) []byte {
		return seal(key, labelSpec, payload, child.Hello.Body, child.Welcome.Body)
	}
	add("the last byte of the MAC is changed", "bad-mac", sp, last(child.Spec.Body))
	add("for another welcome", "bad-mac", sp,
		seal(key, labelSpec, spec, child.Hello.Body, flipped(child.Welcome.Body, 40)))
	add("for no welcome", "bad-mac", sp, seal(key, labelSpec, spec, child.Hello.Body))
	add("for no hello", "bad-mac", sp, seal(key, labelSpec, spec, child.Welcome.Body))
	add("a sealed message that is truncated", "malformed", sp,
		child.Spec.Body[:len(child.Spec.Body)-33])
	for _, c := range []struct {
		name    string
		payload []byte
	}{
		{"another version", swap(spec, "\x61v\x01", "\x61v\x02")},
		{"no version", swap(spec, "\x61v\x01", "\x61w\x01")},
		{"no name", swap(spec, "\x64name\x68worker-1", "\x64nome\x68worker-1")},
		{"depth 0", swap(spec, "\x65depth\x01", "\x65depth\x00")},
		{"an entry that is empty and not left out", swap(spec, "\x65upper", "\x60")},
		{"a name that is null", swap(spec, "\x64name\x68worker-1", "\x64name\xf6")},
		{"a key twice", more(spec, 1, "\x61v\x01")},
		{"no method", swap(spec, "\x66method", "\x66mathod")},
		{"no depth", swap(spec, "\x65depth", "\x65dapth")},
		{"depth 1001", swap(spec, "\x65depth\x01", "\x65depth\x19\x03\xe9")},
		{"depth that is a simple value", swap(spec, "\x65depth\x01", "\x65depth\xe1")},
		{"an entry of 257 bytes", swap(spec, "\x65upper", "\x79\x01\x01"+strings.Repeat("x", 257))},
		{"an entry of 257 bytes and fewer characters",
			swap(spec, "\x65upper", "\x79\x01\x01"+strings.Repeat("é", 128)+"x")},
		{"a name of 257 bytes", swap(spec, "\x64name\x68worker-1",
			"\x64name\x79\x01\x01"+strings.Repeat("x", 257))},
		{"an empty name", swap(spec, "\x64name\x68worker-1", "\x64name\x60")},
		{"an empty method", swap(spec, "\x66method\x64exec", "\x66method\x60")},
		{"a method with U+0007", swap(spec, "\x66method\x64exec", "\x66method\x61\x07")},
		{"a method of 257 bytes", swap(spec, "\x66method\x64exec",
			"\x66method\x79\x01\x01"+strings.Repeat("x", 257))},
		{"a negative depth", swap(spec, "\x65depth\x01", "\x65depth\x20")},
		{"an entry with U+0000", swap(spec, "\x65upper", "\x61\x00")},
		{"an entry with U+001F", swap(spec, "\x65upper", "\x61\x1f")},
		{"an entry with U+007F", swap(spec, "\x65upper", "\x61\x7f")},
		{"an entry with U+0080", swap(spec, "\x65upper", "\x62\xc2\x80")},
		{"an entry with U+009F", swap(spec, "\x65upper", "\x62\xc2\x9f")},
		{"an indefinite length inside args", swap(spec, "\xa1\x65width\x19\x02\x80", "\x9f\xff")},
		{"an indefinite length deep inside args",
			swap(spec, "\xa1\x65width\x19\x02\x80", "\x81\x5f\x41\x01\xff")},
		{"text in args that is not UTF-8", swap(spec, "\xa1\x65width\x19\x02\x80", "\x61\xe9")},
		{"text deep inside args that is not UTF-8",
			swap(spec, "\xa1\x65width\x19\x02\x80", "\x81\xa1\x01\x62\xc0\x80")},
		{"a key in args that is not UTF-8",
			swap(spec, "\xa1\x65width\x19\x02\x80", "\xa1\x61\xe9\x01")},
		{"a simple value in args that is not well-formed",
			swap(spec, "\xa1\x65width\x19\x02\x80", "\xf8\x18")},
		{"false in two bytes in args", swap(spec, "\xa1\x65width\x19\x02\x80", "\xf8\x14")},
		{"a simple value below 32 in two bytes, deep in args",
			swap(spec, "\xa1\x65width\x19\x02\x80", "\xa1\xf8\x1f\x01")},
		{"a simple value of 0 in two bytes in args",
			swap(spec, "\xa1\x65width\x19\x02\x80", "\xf8\x00")},
		{"a reserved initial byte in args",
			swap(spec, "\xa1\x65width\x19\x02\x80", "\xfc")},
		{"a break in args", swap(spec, "\xa1\x65width\x19\x02\x80", "\x81\xff")},
		{"a tag of a reserved initial byte in args",
			swap(spec, "\xa1\x65width\x19\x02\x80", "\xdc\x00")},
		{"args that are cut", append(swap(spec, "\x64args\xa1\x65width\x19\x02\x80",
			"\x65args_\xf4"), "\x64args\x42x"...)},
		{"64 tags in args",
			swap(spec, "\xa1\x65width\x19\x02\x80", strings.Repeat("\xd8\x20", 64)+"\x00")},
		{"depth that is true", swap(spec, "\x65depth\x01", "\x65depth\xf5")},
		{"v that is true", swap(spec, "\x61v\x01", "\x61v\xf5")},
		{"64 maps in args", swap(spec, "\xa1\x65width\x19\x02\x80",
			strings.Repeat("\xa1\x00", 64)+"\x00")},
		{"64 maps as keys in args", swap(spec, "\xa1\x65width\x19\x02\x80",
			strings.Repeat("\xa1", 64)+strings.Repeat("\x00", 65))},
		{"two items for args", swap(spec, "\xa1\x65width\x19\x02\x80", "\x01\x02")},
		{"a deadline of 2 to the 63rd",
			more(spec, 1, "\x68deadline\x1b\x80\x00\x00\x00\x00\x00\x00\x00")},
		{"a deadline that is a float", more(spec, 1, "\x68deadline\xf9\x3c\x00")},
		{"a grace of 2 to the 63rd",
			more(spec, 1, "\x65grace\x1b\x80\x00\x00\x00\x00\x00\x00\x00")},
		{"a log that is none", more(spec, 1, "\x63log\x65TRACE")},
		{"a log in small letters", more(spec, 1, "\x63log\x64info")},
		{"a log with a letter that becomes a capital of ASCII", more(spec, 1, "\x63log\x65ıNFO")},
		{"a log with a sign and no digits", more(spec, 1, "\x63log\x65INFO+")},
		{"a log with ten digits", more(spec, 1, "\x63log\x6fINFO-0000000012")},
		{"an empty dir", more(spec, 1, "\x63dir\x60")},
		{"a dir with a NUL", more(spec, 1, "\x63dir\x64/a\x00b")},
		{"a key that is a number", more(spec, 1, "\x01\x00")},
		{"65 pairs", append([]byte("\xb8\x41"),
			append(slices.Clone(spec[1:]), manyPairs(59)...)...)},
		{"65 elements in a value that is not known",
			more(spec, 1, "\x61x\x98\x41"+strings.Repeat("\x00", 65))},
		{"nine levels of nesting in a value that is not known",
			more(spec, 1, "\x61x"+strings.Repeat("\x81", 8)+"\x00")},
		{"null in a value that is not known", more(spec, 1, "\x61x\xf6")},
		{"a tag in a value that is not known", more(spec, 1, "\x61x\xc1\x00")},
		{"a key twice in a value that is not known", more(spec, 1, "\x61x\xa2\x61y\x00\x61y\x00")},
		{"a deadline below -2^63",
			more(spec, 1, "\x68deadline\x3b\x80\x00\x00\x00\x00\x00\x00\x00")},
		{"a dir that is bytes", more(spec, 1, "\x63dir\x41/")},
		{"a relative dir", more(spec, 1, "\x63dir\x63tmp")},
		{"a negative grace", more(spec, 1, "\x65grace\x20")},
		{"a map of indefinite length", append(append([]byte{0xbf}, spec[1:]...), 0xff)},
		{"a byte too many", append(slices.Clone(spec), 0)},
		{"nothing", nil},
		{"65 levels of nesting in args",
			swap(spec, "\x64args\xa1\x65width\x19\x02\x80",
				"\x64args"+strings.Repeat("\x81", 64)+"\x00")},
		{"65 levels of nesting in args, the last of them a tag",
			swap(spec, "\xa1\x65width\x19\x02\x80", strings.Repeat("\x81", 63)+"\xd8\x20\x61x")},
	} {
		add(c.name, "bad-spec", sp, sealSpec(c.payload))
	}
	// A cancel is allowed here: see TestSpare_IsDismissedByCancel.
	misplaced(frame.KindMessage, frame.KindRaw, frame.KindHello, frame.KindWelcome, frame.KindReady,
		frame.KindGreet, frame.KindProof, frame.KindAttach, frame.KindAttached, frame.KindGoodbye,
		frame.KindPing, frame.KindPong)

	who = inOpen
	misplaced(frame.KindHello, frame.KindWelcome, frame.KindSpec, frame.KindReady, frame.KindFailed,
		frame.KindGreet, frame.KindProof, frame.KindAttach, frame.KindAttached)
	add("65 bytes", "malformed", frame.KindPing, make([]byte, 65))
	cborRules(frame.KindCancel, []byte("\xa1\x65grace\x01"), plain)
	add("a key twice", "malformed", frame.KindCancel, []byte("\xa2\x65grace\x01\x65grace\x01"))
	add("a reason that is a number", "malformed", frame.KindCancel, []byte("\xa1\x66reason\x01"))
	add("a negative grace", "malformed", frame.KindCancel, []byte("\xa1\x65grace\x20"))
	add("a grace of 2 to the 63rd", "malformed", frame.KindCancel,
		[]byte("\xa1\x65grace\x1b\x80\x00\x00\x00\x00\x00\x00\x00"))
	add("a grace that is null", "malformed", frame.KindCancel, []byte("\xa1\x65grace\xf6"))
	add("a reason that is null", "malformed", frame.KindCancel, []byte("\xa1\x66reason\xf6"))
	cborRules(frame.KindGoodbye, []byte("\xa1\x66status\x00"), plain)
	add("a key twice", "malformed", frame.KindGoodbye, []byte("\xa2\x66status\x00\x66status\x00"))
	add("no status", "malformed", frame.KindGoodbye, []byte("\xa0"))
	add("a status that is text", "malformed", frame.KindGoodbye, []byte("\xa1\x66status\x610"))
	add("a status that is true", "malformed", frame.KindGoodbye, []byte("\xa1\x66status\xf5"))
	add("a status that is null", "malformed", frame.KindGoodbye, []byte("\xa1\x66status\xf6"))
	add("a status that is a float", "malformed", frame.KindGoodbye,
		[]byte("\xa1\x66status\xf9\x00\x00"))
	add("a status of 2 to the 63rd", "malformed", frame.KindGoodbye,
		[]byte("\xa1\x66status\x1b\x80\x00\x00\x00\x00\x00\x00\x00"))
	add("a reason that is a number", "malformed", frame.KindGoodbye,
		[]byte("\xa2\x66status\x00\x66reason\x01"))
	add("a reason that is null", "malformed", frame.KindGoodbye,
		[]byte("\xa2\x66status\x00\x66reason\xf6"))

	who = childAttached
	misplaced(frame.KindMessage, frame.KindRaw, frame.KindHello, frame.KindWelcome,
		frame.KindSpec, frame.KindReady,
		frame.KindFailed, frame.KindGreet, frame.KindProof, frame.KindAttach, frame.KindAttached,
		frame.KindPong)
	add("65 bytes", "malformed", frame.KindPing, make([]byte, 65))
	stream("a length of 65537: the limit stays", "too-large", 0,
		[]byte{0x01, 0x00, 0x01, 0x00, 0x20}, false)
	stream("an unknown kind below 0x80", "unknown-kind", 0, []byte{1, 0, 0, 0, 0x7f}, false)
	stream("the end", "peer-gone", 0, []byte{}, true)

	who = peerGreeting
	const gr = frame.KindGreet
	greet := []byte(peers.DialerGreet.Body)
	add("another auth", "auth-mismatch", gr, swap(greet, "\x63key", "\x64none"))
	add("an auth that there is not", "auth-mismatch", gr, swap(greet, "\x63key", "\x65magic"))
	add("no version in common", "version", gr, swap(greet, "\x82\x01\x01", "\x82\x03\x04"))
	add("the receiver's own id", "own-id", gr, swap(greet, "\x64left", "\x65right"))
	add("versions from 0", "malformed", gr, swap(greet, "\x82\x01\x01", "\x82\x00\x01"))
	add("a nonce of 31 bytes", "malformed", gr,
		swap(greet, "\x58\x20"+string(vectorGreets[0].nonce),
			"\x58\x1f"+string(vectorGreets[0].nonce[:31])))
	badPeer(gr, greet, "\x64left", "\x66dialer", "\x63pid\x0b", plain)
	lacks(gr, greet, plain, "versions", "id", "name", "pid", "nonce", "auth")
	for _, v := range [][2]string{
		{"versions that are one number", "\x01"}, {"versions that are one", "\x81\x01"},
		{"versions that are three", "\x83\x01\x01\x01"},
		{"versions that are text", "\x82\x611\x611"},
		{"versions that are true", "\x82\xf5\xf5"}, {"versions below 0", "\x82\x20\x01"},
		{"versions of which the first is higher", "\x82\x02\x01"},
	} {
		add(v[0], "malformed", gr, swap(greet, "\x82\x01\x01", v[1]))
	}
	stream("a length of 65537", "too-large", 0, []byte{0x01, 0x00, 0x01, 0x00, 0x15}, false)
	own := swap(greet, "\x64left", "\x65right")
	add("the receiver's own id and another auth", "own-id", gr, swap(own, "\x63key", "\x64none"))
	add("the receiver's own id and no version in common", "own-id", gr,
		swap(own, "\x82\x01\x01", "\x82\x03\x04"))
	add("another auth and no version in common", "auth-mismatch", gr,
		swap(swap(greet, "\x63key", "\x64none"), "\x82\x01\x01", "\x82\x03\x04"))
	add("a pid that is text and no version in common", "malformed", gr,
		swap(swap(greet, "\x63pid\x0b", "\x63pid\x61x"), "\x82\x01\x01", "\x82\x03\x04"))
	add("a pid that is text and the receiver's own id", "malformed", gr,
		swap(own, "\x63pid\x0b", "\x63pid\x61x"))
	badFeatures(gr, greet, func(v string) []byte { return more(greet, 1, "\x68features"+v) })
	badFailed(child.Refused.Body)
	add("an auth that is null", "malformed", gr, swap(greet, "\x63key", "\xf6"))
	add("a key twice", "malformed", gr, more(greet, 1, "\x62id\x61x"))
	cborRules(gr, greet, plain)
	misplaced(frame.KindMessage, frame.KindRaw, frame.KindHello, frame.KindWelcome,
		frame.KindSpec, frame.KindReady,
		frame.KindProof, frame.KindAttach, frame.KindAttached, frame.KindCancel,
		frame.KindGoodbye, frame.KindPing, frame.KindPong)

	who = acceptorProof
	const pr = frame.KindProof
	left, right := peers.DialerGreet.Body, peers.AcceptorGreet.Body
	add("the last byte is changed", "bad-mac", pr, last(peers.DialerProof.Body))
	add("the acceptor's own proof sent back", "bad-mac", pr, peers.AcceptorProof.Body)
	add("another key", "bad-mac", pr,
		encodeProof(mac([]byte("a key that one program has"), labelDialer, left, right)))
	add("the greets in the other order", "bad-mac", pr,
		encodeProof(mac(vectorKey, labelDialer, right, left)))
	add("an empty proof", "bad-mac", pr, peers.EmptyProof.Body)
	add("the first 31 bytes", "bad-mac", pr, encodeProof(peers.DialerProof.MAC[:31]))
	add("text in place of bytes", "malformed", pr,
		append([]byte("\x78\x20"), strings.Repeat("x", 32)...))
	add("an indefinite length", "malformed", pr,
		append(append([]byte("\x5f"), peers.DialerProof.Body...), 0xff))
	add("a byte too many", "malformed", pr, append(slices.Clone(peers.DialerProof.Body), 0))
	add("truncated", "malformed", pr, peers.DialerProof.Body[:33])
	misplaced(frame.KindMessage, frame.KindHello, frame.KindReady, frame.KindGreet,
		frame.KindGoodbye, frame.KindPing)

	who = dialerProof
	add("the last byte is changed", "bad-mac", pr, last(peers.AcceptorProof.Body))
	add("the dialer's own proof sent back", "bad-mac", pr, peers.DialerProof.Body)
	add("an empty proof", "bad-mac", pr, peers.EmptyProof.Body)
	add("33 bytes", "bad-mac", pr, encodeProof(append(slices.Clone(peers.AcceptorProof.MAC), 0)))
	add("null", "malformed", pr, []byte("\xf6"))
	add("an array of numbers", "malformed", pr, []byte("\x81\x01"))
	misplaced(frame.KindMessage, frame.KindHello, frame.KindReady, frame.KindGreet,
		frame.KindGoodbye, frame.KindPing)
	for i := range file.Refused {
		mayTake(&file.Refused[i], child)
	}
	return file
}

// manyPairs returns n encoded pairs of a map. Each key has two letters.
func manyPairs(n int) string {
	var pairs strings.Builder
	for i := range n {
		pairs.WriteString("\x62" + string([]byte{'A' + byte(i>>4), 'a' + byte(i&15)}) + "\x00")
	}
	return pairs.String()
}

// refuse maps a receiver and its state to a function that gives it a vector. The
// function returns the receiver's error, and the bytes it sent before it closed.
var refuse = map[[2]string]func(*testing.T, vectors, vectorRefused) (answer []byte, err error){
	anybody: func(t *testing.T, _ vectors, v vectorRefused) ([]byte, error) {
		return hearOn(t, v, func(ctx context.Context, conn net.Conn) error {
			ch := transport.New(conn, transport.Config{MaxFrameSize: v.Limit})
			defer ch.Abort()
			_, err := ch.Frames(access.Key{}).Read(ctx)
			return err
		})
	},
	inOpen: func(t *testing.T, _ vectors, v vectorRefused) ([]byte, error) {
		// a receiver that accepts the vector must not wait for more
		v.Bytes = append(slices.Clone(v.Bytes),
			frameBytes(frame.KindGoodbye, []byte("\xa1\x66status\x18\x63"))...)
		return hearOn(t, v, func(ctx context.Context, conn net.Conn) error {
			ch := newChannel(conn, func(Cancel) {})
			frames(ch).SetMaxSize(v.Limit)
			defer ch.Abort()
			return ch.Recv(ctx, new(any))
		})
	},
	parentWaits:   parentRefuses,
	parentOrdered: parentRefuses,
	childGreeted: func(t *testing.T, all vectors, v vectorRefused) ([]byte, error) {
		if v.Kind == "welcome" { // its MAC fits only the vectors' hello
			_, err := openWelcome(all.Child.Secret, all.Child.Hello.Body,
				v.body(), versionRange{1, 1})
			return nil, err
		}
		if v.Kind == "" {
			return all.converse(t, exchange{receiver: v.Receiver, said: v.Bytes})
		}
		return hearOn(t, v, func(ctx context.Context, conn net.Conn) error {
			_, err := Join(ctx, conn,
				Ticket{vectorAddr, vectorHello.ID, newSecret(vectorSecret)}, JoinConfig{})
			return err
		})
	},
	childWelcomed: func(t *testing.T, all vectors, v vectorRefused) ([]byte, error) {
		if v.Kind == "spec" {
			spec, err := openSpec(startMAC(all.Child.Secret, labelSpec, all.Child.Hello.Body,
				all.Child.Welcome.Body), v.body())
			if err != nil {
				return nil, err
			}
			_, err = spawnspec.Unmarshal(spec)
			// this is the answer of package forkspawn
			said := failedFrame(failed{PhaseSpec, codeBadSpec, "", nil})
			return frameBytes(said.Kind, said.Body), err
		}
		a, b := net.Pipe()
		defer b.Close()
		go func() {
			hello, err := readBody(b)
			if err == nil {
				b.Write(frameBytes(frame.KindWelcome,
					seal(vectorSecret, labelWelcome, vectorWelcome.encode(), hello)))
				b.Write(v.Bytes)
			}
			io.Copy(io.Discard, b)
		}()
		_, err := Join(patientContext(t), a,
			Ticket{vectorAddr, vectorHello.ID, newSecret(vectorSecret)}, JoinConfig{})
		return nil, err
	},
	peerGreeting: func(t *testing.T, all vectors, v vectorRefused) ([]byte, error) {
		return hearOn(t, v, func(ctx context.Context, conn net.Conn) error {
			me := vectorGreets[1]
			_, err := AcceptPeer(ctx, conn,
				PeerConfig{Identity: Identity{me.ID, me.Name, me.PID}, Key: vectorKey})
			return err
		})
	},
	acceptorProof: func(t *testing.T, all vectors, v vectorRefused) ([]byte, error) {
		return hearOn(t, v, func(ctx context.Context, conn net.Conn) error {
			m := &meeting{ch: transport.New(conn,
				transport.Config{MaxFrameSize: access.PreAuthLimit}),
				cfg: PeerConfig{Key: vectorKey}, auth: authKey}
			err := m.prove(ctx, all.Peers.AcceptorGreet.Body, all.Peers.DialerGreet.Body)
			m.reject(ctx, PhaseAuth, err)
			return err
		})
	},
	dialerProof: func(t *testing.T, all vectors, v vectorRefused) ([]byte, error) {
		return hearOn(t, v, func(ctx context.Context, conn net.Conn) error {
			m := &meeting{ch: transport.New(conn,
				transport.Config{MaxFrameSize: access.PreAuthLimit}),
				cfg: PeerConfig{Key: vectorKey}, auth: authKey, dialer: true}
			err := m.prove(ctx, all.Peers.DialerGreet.Body, all.Peers.AcceptorGreet.Body)
			m.reject(ctx, PhaseAuth, err)
			return err
		})
	},
}

func patientContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// hearOn runs a receiver on one end of a pipe and writes the vector to the other.
func hearOn(
	t *testing.T, v vectorRefused, receive func(context.Context, net.Conn) error,
) (answer []byte, err error) {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	heard := make(chan []byte, 1)
	go func() {
		var all bytes.Buffer
		io.Copy(&all, b)
		heard <- all.Bytes()
	}()
	go func() {
		b.Write(v.Bytes)
		if v.Ends {
			b.Close()
		}
	}()
	err = receive(patientContext(t), a)
	a.Close()
	return <-heard, err
}

// readBody reads a frame and returns its body.
func readBody(r io.Reader) ([]byte, error) {
	var header [5]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	body := make([]byte, int(header[0])|int(header[1])<<8|int(header[2])<<16-1)
	_, err := io.ReadFull(r, body)
	return body, err
}

// parentRefuses sends a vector to a Listener.
func parentRefuses(t *testing.T, all vectors, v vectorRefused) (answer []byte, err error) {
	reasons := make(reasonLog, 4)
	l, x := listenForVectors(t, ListenerConfig{Logger: slog.New(reasons)})
	vectorPeer(l, all.Child)
	conn, err := net.Dial("tcp", l.ln.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	ordered := v.State == parentOrdered[1]
	if ordered {
		conn.Write(all.Child.Hello.Frame)
		for range 2 { // welcome and spec
			_, err := readBody(conn)
			require.NoError(t, err)
		}
	}
	_, err = conn.Write(v.Bytes)
	require.NoError(t, err)
	answer, err = io.ReadAll(conn)
	require.NoError(t, err)
	if ordered || v.Error == "version" {
		_, err = x.WaitForPeer(patientContext(t))
		return answer, err
	}
	select {
	case err = <-reasons:
	case <-time.After(time.Minute):
		t.Fatal("the log has no reason")
	}
	held := l.Held()
	assert.Equal(t, [2]int{1, 1}, [2]int{held.Expected, held.Sessions},
		"the child is still expected")
	return answer, err
}

// reasonLog is a slog.Handler that keeps only the reasons of refusals.
type reasonLog chan error

func (r reasonLog) Enabled(context.Context, slog.Level) bool { return true }
func (r reasonLog) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r reasonLog) WithGroup(string) slog.Handler            { return r }
func (r reasonLog) Handle(_ context.Context, rec slog.Record) error {
	rec.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && a.Key == "reason" {
			r <- err
		}
		return true
	})
	return nil
}

func TestVectors_RefusedOnes(t *testing.T) {
	t.Parallel()
	all := makeVectors(t)
	for _, v := range all.Refused.Refused {
		if v.State == childAttached[1] {
			continue // package forkspawn reads this connection and tests it
		}
		t.Run(strings.Join([]string{v.Receiver, v.State, v.Kind, v.Name}, " "), func(t *testing.T) {
			said, err := refuse[[2]string{v.Receiver, v.State}](t, all, v)
			require.Error(t, err)
			assert.True(t, wireErrors[v.Error].is(err), "want %s, got: %v", v.Error, err)
			assert.Equal(t, v.Answer, failedCode(said))
		})
	}
}

// failedCode returns the code of the failed frame in the bytes from a receiver, or
// "" if there is none.
func failedCode(said []byte) string {
	r := bytes.NewReader(said)
	for r.Len() > 0 {
		kind := said[len(said)-r.Len()+4]
		body, err := readBody(r)
		if err != nil {
			return err.Error()
		}
		var f failed
		if frame.Kind(kind) == frame.KindFailed && decode(frame.KindFailed, body, &f) == nil {
			return f.code
		}
	}
	return ""
}

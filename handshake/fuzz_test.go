package handshake

import (
	"bytes"
	"errors"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// FuzzTicket gives the parser arbitrary text: it refuses it without a word of what may be the secret, or takes it and
// writes it back so that it is read as the same.
func FuzzTicket(f *testing.F) {
	v := ticketVectors()
	for _, ticket := range v.Tickets {
		f.Add(ticket.Value)
	}
	for _, r := range v.RefusedTickets {
		f.Add(r.Text)
	}
	for _, a := range v.Addresses {
		f.Add("1 x " + strings.Repeat("00", 32) + " " + a.Text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ticket, err := ParseTicket(text)
		if err != nil {
			require.ErrorAs(t, err, new(*TicketError))
			fields := strings.SplitN(text, " ", 4)
			if len(fields) == 4 && len(fields[2]) > 20 && !strings.Contains(fields[3], fields[2]) {
				require.NotContains(t, err.Error(), fields[2])
			}
			return
		}
		require.NoError(t, checkID(ticket.ID))
		again, err := ParseTicket(ticket.Encode())
		require.NoError(t, err)
		require.True(t, ticket == again)
	})
}

// roundTrips decode a message, and encode it again when it is good.
var roundTrips = map[transport.Kind]func([]byte) ([]byte, error){
	transport.KindHello: func(b []byte) ([]byte, error) {
		var m hello
		err := decode(transport.KindHello, b, &m)
		if err == nil {
			err = m.check()
		}
		return m.encode(), err
	},
	transport.KindWelcome: func(b []byte) ([]byte, error) {
		m, err := openWelcome(vectorSecret[:], nil, seal(vectorSecret[:], labelWelcome, b, nil), Range{Min: 1, Max: 1 << 30})
		return m.encode(), err
	},
	transport.KindReady: func(b []byte) ([]byte, error) {
		m, err := decodeReady(b)
		return m.encode(), err
	},
	transport.KindFailed: func(b []byte) ([]byte, error) {
		err := failedError(b, Range{Min: 1, Max: 1}, PhaseAuth)
		if said := (*FailedError)(nil); errors.As(err, &said) {
			return said.frame(nil).Body, nil
		}
		if ver := (*VersionError)(nil); errors.As(err, &ver) {
			return FailedError{PhaseAuth, CodeVersion, "none"}.frame(&ver.Theirs).Body, nil
		}
		return nil, err
	},
	transport.KindGreet: func(b []byte) ([]byte, error) {
		var m greet
		err := decode(transport.KindGreet, b, &m)
		if err == nil {
			err = m.check()
		}
		return m.encode(), err
	},
	transport.KindProof: func(b []byte) ([]byte, error) {
		var m byteString
		err := decode(transport.KindProof, b, &m)
		return encodeProof(m), err
	},
	transport.KindAttach: func(b []byte) ([]byte, error) {
		m, err := decodeAttach(b)
		return m.encode(), err
	},
	transport.KindCancel: func(b []byte) ([]byte, error) {
		m, err := transport.ParseCancel(b)
		return m.Frame().Body, controlError(err)
	},
	transport.KindGoodbye: func(b []byte) ([]byte, error) {
		m, err := transport.ParseGoodbye(b)
		if err != nil {
			return nil, controlError(err)
		}
		return goodbyeBody(m.Status, m.Reason), nil
	},
}

// controlError is what a channel makes of a control frame that cannot be decoded.
func controlError(err error) error {
	if errors.As(err, new(*transport.DecodeError)) {
		return transport.ErrProtocol
	}
	return err
}

func goodbyeBody(status int, reason string) []byte {
	var w cborWriter
	w.pairs(2)
	w.text("status")
	if status < 0 {
		w.head(1<<5, uint64(-(status + 1)))
	} else {
		w.uint(uint64(status))
	}
	w.textField("reason", reason)
	return w
}

// roughlyAllocated returns how many bytes this process has ever allocated; it may lag by less than a megabyte.
func roughlyAllocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// FuzzMessage decodes arbitrary bytes as the message of each kind, without the seal of those that have one. What is
// taken says the same when it is encoded and decoded again; anything else is a protocol error of a bounded length.
// Neither takes more memory than what has come explains.
func FuzzMessage(f *testing.F) {
	v := makeVectors(f)
	add := func(kind string, body, payload []byte) {
		for k := range roundTrips {
			if k.String() == kind {
				if payload != nil {
					body = payload
				}
				f.Add(byte(k), body)
			}
		}
	}
	c := v.Child
	frames := append([]vectorFrame{c.Hello, c.Welcome, c.Ready, c.Failed, c.Refused, c.Version, c.Attach, v.Peers.DialerGreet, v.Peers.DialerProof, v.Peers.EmptyProof}, c.Open...)
	for _, m := range append(frames, c.Tolerated...) {
		add(m.Kind, m.Body, m.Payload)
	}
	for _, r := range v.Refused.Refused {
		if r.Kind == "" {
			continue
		}
		s, _ := open(0, r.body())
		add(r.Kind, r.body(), s.Payload)
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		roundTrip := roundTrips[transport.Kind(kind)]
		if roundTrip == nil || len(b) > PreAuthLimit {
			return
		}
		before := roughlyAllocated()
		first, err := roundTrip(b)
		require.Less(t, roughlyAllocated()-before, uint64(100*len(b)+1<<20))
		if err != nil {
			require.True(t, errors.Is(err, transport.ErrProtocol) || errors.As(err, new(*VersionError)), "%v", err)
			require.LessOrEqual(t, len(err.Error()), 500)
			return
		}
		again, err := roundTrip(first)
		require.NoError(t, err, "%x", first)
		require.Equal(t, first, again)
	})
}

// FuzzHello gives arbitrary bytes to a Listener that expects a child: once as the body of a hello frame,
// and once as a payload that is sealed with the right secret, so that what is behind the proof is
// reached. A hello is accepted only with the proof, and only when it is the expected child's.
func FuzzHello(f *testing.F) {
	v := makeVectors(f)
	addSealed(f, v, v.Child.Hello)
	l, _ := listenForVectors(f, ListenerConfig{})
	f.Fuzz(func(t *testing.T, b []byte, sealIt bool) {
		if sealIt {
			b = seal(vectorSecret[:], labelHello, b)
		}
		c, err := l.checkHello(nil, 0, b)
		if err == nil {
			l.mu.Lock()
			l.expected[c.x.id] = c.x // for the next one
			c.x.secret = &Secret{}
			*c.x.secret = vectorSecret
			l.mu.Unlock()

			requireProof(t, transport.KindHello, b, vectorSecret[:], labelHello)
			require.Equal(t, vectorHello.ID, c.hello.ID)
			return
		}
		require.Nil(t, c)
		requireRefusal(t, err)
		require.Equal(t, Held{Expected: 1}, l.Held())
	})
}

// FuzzAttach is FuzzHello for the first frame of a control connection.
func FuzzAttach(f *testing.F) {
	v := makeVectors(f)
	addSealed(f, v, v.Child.Attach)
	l, x := listenForVectors(f, ListenerConfig{})
	x.Cancel()
	session := v.Child.Session.MAC
	p := vectorPeer(l, v.Child)
	f.Fuzz(func(t *testing.T, b []byte, sealIt bool) {
		if sealIt {
			b = seal(session, labelAttach, b)
		}
		ch := new(transport.Channel) // nobody says anything on it
		if err := attachTo(l, ch, b); err != nil {
			requireRefusal(t, err)
			require.Equal(t, Held{Sessions: 1}, l.Held())
			return
		}
		requireProof(t, transport.KindAttach, b, session, labelAttach)
		require.Same(t, ch, p.control)
		require.Equal(t, Held{}, l.Held(), "a session key serves one attach")
		key := Secret(session)
		p.control, p.attach, p.session = nil, make(chan struct{}), &key // for the next one
		l.addSession(p)
	})
}

// addSealed adds the seeds of a sealed message: whole, and its payload to be sealed anew.
func addSealed(f *testing.F, v vectors, good vectorFrame) {
	f.Add([]byte(good.Body), false)
	f.Add([]byte(good.Payload), true)
	for _, t := range v.Child.Tolerated {
		if t.Kind == good.Kind {
			f.Add([]byte(t.Payload), true)
		}
	}
	for _, n := range v.Refused.Refused {
		if n.Kind != good.Kind {
			continue
		}
		f.Add(n.body(), false)
		if s, err := open(0, n.body()); err == nil {
			f.Add(bytes.Clone(s.Payload), true)
		}
	}
}

func requireProof(t *testing.T, kind transport.Kind, body, key []byte, label string) {
	t.Helper()
	s, err := open(kind, body)
	require.NoError(t, err)
	require.Equal(t, hmacOf(key, macInput(label, s.Payload)), s.MAC, "accepted with no proof")
}

func requireRefusal(t *testing.T, err error) {
	t.Helper()
	known := errors.Is(err, ErrBadMAC) || errors.Is(err, transport.ErrProtocol) || errors.Is(err, ErrUnknownPeer)
	require.True(t, known, "%v", err)
	require.LessOrEqual(t, len(err.Error()), 500)
}

// FuzzSpec gives a child arbitrary bytes as the body of a spec frame, and as a payload that is sealed: it gets orders
// only with the proof, and reads them or says what is wrong.
func FuzzSpec(f *testing.F) {
	v := makeVectors(f)
	addSealed(f, v, v.Child.Spec)
	key, hello, welcome := []byte(v.Child.Secret), []byte(v.Child.Hello.Body), []byte(v.Child.Welcome.Body)
	f.Fuzz(func(t *testing.T, b []byte, sealIt bool) {
		if sealIt {
			b = seal(key, labelSpec, b, hello, welcome)
		}
		payload, err := openSpec(startMAC(key, labelSpec, hello, welcome), b)
		if err != nil {
			requireRefusal(t, err)
			return
		}
		s, err := open(transport.KindSpec, b)
		require.NoError(t, err)
		require.Equal(t, hmacOf(key, macInput(labelSpec, hello, welcome, s.Payload)), s.MAC, "accepted with no proof")
		require.Equal(t, s.Payload, payload)
		if _, err := spawnspec.Unmarshal(payload); err != nil {
			require.True(t, isSpecError(err), "%v", err)
		}
	})
}

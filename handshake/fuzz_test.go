package handshake

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// FuzzTicket gives the parser arbitrary text. If the parser rejects the text, the
// error must not contain the field of the secret. If it accepts the text, the
// encoded ticket must parse to an equal ticket.
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
			require.ErrorIs(t, err, ErrBadTicket)
			fields := strings.SplitN(text, " ", 4)
			if len(fields) == 4 && len(fields[2]) > 20 && !strings.Contains(fields[3], fields[2]) {
				require.NotContains(t, err.Error(), fields[2])
			}
			return
		}
		require.NoError(t, checkID(ticket.ID))
		again, err := ParseTicket(ticket.Encode())
		require.NoError(t, err)
		require.Equal(t, ticket.Encode(), again.Encode())
	})
}

// roundTrips decode a message of each kind, and encode it again if it is good.
var roundTrips = map[frame.Kind]func([]byte) ([]byte, error){
	frame.KindHello: func(b []byte) ([]byte, error) {
		m, err := decodeHello(b)
		return m.encode(), err
	},
	frame.KindWelcome: func(b []byte) ([]byte, error) {
		m, err := openWelcome(vectorSecret, nil, seal(vectorSecret, labelWelcome, b, nil),
			versionRange{1, 1 << 30})
		return m.encode(), err
	},
	frame.KindReady: func(b []byte) ([]byte, error) {
		var m ready
		err := decode(frame.KindReady, b, &m)
		return m.encode(), err
	},
	frame.KindFailed: func(b []byte) ([]byte, error) {
		err := failedError(b, versionRange{1, 1}, PhaseAuth)
		if said := (*FailedError)(nil); errors.As(err, &said) {
			return failedFrame(failed{said.Phase, said.code, said.Text, nil}).Body, nil
		}
		if ver := (*VersionError)(nil); errors.As(err, &ver) {
			theirs := versionRange(ver.Theirs)
			return failedFrame(failed{PhaseAuth, codeVersion, "none", &theirs}).Body, nil
		}
		return nil, err
	},
	frame.KindGreet: func(b []byte) ([]byte, error) {
		m, err := decodeGreet(b)
		return m.encode(), err
	},
	frame.KindProof: func(b []byte) ([]byte, error) {
		m, err := decodeProof(b)
		return encodeProof(m), err
	},
	frame.KindAttach: func(b []byte) ([]byte, error) {
		m, err := decodeAttach(b)
		return m.encode(), err
	},
	frame.KindAttached: func(b []byte) ([]byte, error) {
		err := decode(frame.KindAttached, b, new(attached))
		return attached{}.encode(), err
	},
	frame.KindCancel: func(b []byte) ([]byte, error) {
		m, err := frame.ParseCancel(b)
		return m.Frame().Body, malformed(frame.KindCancel, err)
	},
	frame.KindGoodbye: func(b []byte) ([]byte, error) {
		m, err := frame.ParseGoodbye(b)
		return m.Frame().Body, malformed(frame.KindGoodbye, err)
	},
}

// roughlyAllocated returns how many bytes this process has allocated since its
// start. The figure may lag by less than a megabyte.
func roughlyAllocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// FuzzMessage decodes arbitrary bytes as the message of each kind, without the
// seal of the sealed kinds. An accepted message must stay the same when it is
// encoded and decoded again. A rejected message must cause a protocol error or a
// version error, and the text of the error is bounded. In both cases, the memory
// allocated must be in proportion to the length of the input.
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
	frames := append([]vectorFrame{c.Hello, c.Welcome, c.Ready, c.Failed, c.Refused, c.Version,
		c.Attach, v.Peers.DialerGreet, v.Peers.DialerProof, v.Peers.EmptyProof}, c.Open...)
	for _, m := range append(frames, c.Tolerated...) {
		add(m.Kind, m.Body, m.Payload)
	}
	for _, r := range v.Refused.Refused {
		if r.Kind == "" {
			continue
		}
		s, _ := open(0, r.body())
		add(r.Kind, r.body(), s.payload)
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		roundTrip := roundTrips[frame.Kind(kind)]
		if roundTrip == nil || len(b) > access.PreAuthLimit {
			return
		}
		before := roughlyAllocated()
		first, err := roundTrip(b)
		require.Less(t, roughlyAllocated()-before, uint64(100*len(b)+1<<20))
		if err != nil {
			require.True(t, errors.Is(err, transport.ErrProtocol) ||
				errors.As(err, new(*VersionError)), "%v", err)
			require.LessOrEqual(t, len(err.Error()), 500)
			return
		}
		again, err := roundTrip(first)
		require.NoError(t, err, "%x", first)
		require.Equal(t, first, again)
	})
}

// FuzzHello gives arbitrary bytes to a Listener that expects a child. They are the
// body of a hello frame, or a payload to be sealed with the right secret, so that
// the fuzzer reaches the code after the proof. The Listener must accept a hello
// only with the proof, and only from the expected child.
func FuzzHello(f *testing.F) {
	v := makeVectors(f)
	addSealed(f, v, v.Child.Hello)
	l, _ := listenForVectors(f, ListenerConfig{})
	f.Fuzz(func(t *testing.T, b []byte, sealIt bool) {
		if sealIt {
			b = seal(vectorSecret, labelHello, b)
		}
		c, err := l.checkHello(nil, 0, b)
		if err == nil {
			l.mu.Lock()
			l.expected[c.x.id] = c.x // for the next run
			l.mu.Unlock()

			requireProof(t, frame.KindHello, b, vectorSecret, labelHello)
			require.Equal(t, vectorHello.ID, c.hello.ID)
			return
		}
		require.Nil(t, c)
		requireRefusal(t, err)
		require.Equal(t, Held{Expected: 1}, l.Held())
	})
}

// FuzzAttach is like FuzzHello, for the first frame of a control connection.
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
		near, far := net.Pipe()
		defer near.Close()
		go io.Copy(io.Discard, far)
		ch := newChannel(near, nil)
		if err := attachTo(l, ch, b); err != nil {
			requireRefusal(t, err)
			require.Equal(t, Held{Sessions: 1}, l.Held())
			return
		}
		requireProof(t, frame.KindAttach, b, session, labelAttach)
		require.Same(t, ch, p.control)
		require.Equal(t, Held{}, l.Held(), "a session key serves one attach")
		p.control, p.attaching, p.attached = nil, false, make(chan struct{}) // for the next run
		l.addSession(p)
	})
}

// addSealed adds the seeds for a sealed message: whole bodies, and payloads to be
// sealed by the target.
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
			f.Add(bytes.Clone(s.payload), true)
		}
	}
}

func requireProof(t *testing.T, kind frame.Kind, body, key []byte, label string) {
	t.Helper()
	s, err := open(kind, body)
	require.NoError(t, err)
	require.Equal(t, hmacOf(key, macInput(label, s.payload)), s.mac, "accepted with no proof")
}

func requireRefusal(t *testing.T, err error) {
	t.Helper()
	known := errors.Is(err, ErrBadMAC) || errors.Is(err, transport.ErrProtocol) ||
		errors.Is(err, ErrUnknownPeer)
	require.True(t, known, "%v", err)
	require.LessOrEqual(t, len(err.Error()), 500)
}

// FuzzSpec gives a child arbitrary bytes as the body of a spec frame, or as a
// payload to be sealed. The child must accept a spec only with the proof, and must
// then either read it or report the fault in it.
func FuzzSpec(f *testing.F) {
	v := makeVectors(f)
	addSealed(f, v, v.Child.Spec)
	key, hello, welcome := []byte(v.Child.Secret), []byte(v.Child.Hello.Body),
		[]byte(v.Child.Welcome.Body)
	f.Fuzz(func(t *testing.T, b []byte, sealIt bool) {
		if sealIt {
			b = seal(key, labelSpec, b, hello, welcome)
		}
		payload, err := openSpec(startMAC(key, labelSpec, hello, welcome), b)
		if err != nil {
			requireRefusal(t, err)
			return
		}
		s, err := open(frame.KindSpec, b)
		require.NoError(t, err)
		require.Equal(t, hmacOf(key, macInput(labelSpec, hello, welcome, s.payload)), s.mac,
			"accepted with no proof")
		require.Equal(t, s.payload, payload)
		if _, err := spawnspec.Unmarshal(payload); err != nil {
			require.True(t, isSpecError(err), "%v", err)
		}
	})
}

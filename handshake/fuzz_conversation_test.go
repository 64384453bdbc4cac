package handshake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// The targets in this file fuzz whole handshakes. One side is the library, and the
// fuzzer's bytes make the other. Each handshake must end and leave nothing held.
// It must succeed only if the fuzzed side has used the key.

// FuzzConversation sends arbitrary bytes to a Listener as the whole input of one
// connection.
func FuzzConversation(f *testing.F) {
	v := makeVectors(f)
	hello := v.Child.Hello.Frame
	f.Add([]byte{})
	f.Add([]byte(hello))
	f.Add([]byte(hello[:len(hello)-1]))
	f.Add([]byte(v.Child.Attach.Frame))
	for _, then := range append([]vectorFrame{v.Child.Ready, v.Child.Failed, v.Child.Version},
		v.Child.Tolerated...) {
		f.Add(append(bytes.Clone(hello), then.Frame...))
		f.Add(append(bytes.Clone(hello), then.Frame[:len(then.Frame)-1]...))
	}
	for _, then := range v.Child.Open {
		f.Add(append(append(bytes.Clone(hello), v.Child.Ready.Frame...), then.Frame...))
	}
	f.Add(append(frameBytes(frame.KindExtension, make([]byte, 100)), hello...))
	for _, n := range v.Refused.Refused {
		f.Add([]byte(n.Bytes))
		f.Add(append(bytes.Clone(hello), n.Bytes...))
	}
	for _, s := range v.Frames.Streams {
		f.Add([]byte(s.Bytes))
	}

	dir, err := unixsock.NewDir()
	require.NoError(f, err)
	f.Cleanup(func() { dir.Remove() })
	ln, err := uds.Listen(f.Context(),
		transport.Addr{Scheme: transport.SchemeUDS, Target: dir.Socket("l")})
	require.NoError(f, err)
	l, err := Listen(ln, ListenerConfig{})
	require.NoError(f, err)
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 128<<10 {
			return // a write must fit into a socket's buffer
		}
		x := expectVectors(t, l)
		var over sync.WaitGroup
		over.Go(func() {
			<-x.Done()
			x.Cancel() // closes a peer
		})
		conn, err := uds.Dial(t.Context(),
			transport.Addr{Scheme: transport.SchemeUDS, Target: dir.Socket("l")})
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		conn.Write(b) // the Listener may refuse it in the middle
		conn.CloseWrite()
		answer, err := io.ReadAll(conn)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection goes on")

		if len(answer) > 4 && frame.Kind(answer[4]) == frame.KindWelcome {
			require.True(t, saysHello(b, v.Child.Secret), "a welcome for no hello")
		} else if !saysHello(b, v.Child.Secret) {
			select {
			case <-x.Done():
				require.Fail(t, "a stranger ended the wait")
			default:
			}
		}
		x.Cancel()
		over.Wait()
		awaitNothingHeld(t, l)
	})
}

func awaitNothingHeld(t *testing.T, l *Listener) {
	t.Helper()
	// the goroutine of the handshake may not have finished yet
	for began := time.Now(); l.Held() != (Held{}); runtime.Gosched() {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("the Listener goes on to hold %+v", l.Held())
		}
	}
}

// saysHello reports whether the first frame after any extension frames is a hello
// with a MAC made with the key.
func saysHello(b, key []byte) bool {
	for len(b) >= 5 {
		size := int(b[0]) | int(b[1])<<8 | int(b[2])<<16 | int(b[3])<<24
		if size < 1 || len(b) < 4+size {
			return false
		}
		kind, body := frame.Kind(b[4]), b[5:4+size]
		if kind == frame.KindHello {
			s, err := open(kind, body)
			return err == nil && bytes.Equal(s.mac, hmacOf(key, macInput(labelHello, s.payload)))
		}
		if kind < frame.KindExtension {
			return false
		}
		b = b[4+size:]
	}
	return false
}

// step is one action of the fuzzer's side.
type step struct {
	do   byte // doGood and so on
	kind frame.Kind
	data []byte
}

const (
	doGood   = iota // a frame of that kind as this side should make it
	doSealed        // the data as a payload of that kind, with a good MAC
	doFrame         // the data as the body of a frame of that kind
	doRaw           // the data as it is
	doKinds
)

// steps parses a script. For each step, the script has one byte each for do, kind
// and the length of the data, and then the data.
func steps(script []byte) (list []step) {
	for len(script) >= 3 && len(list) < 16 {
		n := min(int(script[2]), len(script)-3)
		list = append(list, step{script[0] % doKinds, frame.Kind(script[1]), script[3 : 3+n]})
		script = script[3+n:]
	}
	return list
}

// script encodes steps for the function steps.
func script(list ...step) (b []byte) {
	for _, s := range list {
		n := min(len(s.data), 255)
		b = append(append(b, s.do, byte(s.kind), byte(n)), s.data[:n]...)
	}
	return b
}

// addScripts adds scripts that begin with good frames and continue with one of
// the vectors, for each number of good frames and each vector.
func addScripts(f *testing.F, v vectors, add func([]byte), good ...frame.Kind) {
	var begin []step
	add(nil)
	for i := 0; ; i++ {
		for _, r := range v.Refused.Refused {
			if len(r.Bytes) > 255 {
				continue
			}
			add(script(append(begin[:i:i], step{doRaw, 0, r.Bytes})...))
			if i < len(good) && r.Kind == good[i].String() { // instead of the good frame
				add(script(append(append(begin[:i:i], step{doRaw, 0, r.Bytes}),
					rest(good[i+1:])...)...))
			}
		}
		for _, m := range v.Child.Open {
			add(script(append(begin[:i:i], step{doRaw, 0, m.Frame})...))
		}
		for _, m := range append([]vectorFrame{v.Child.Hello, v.Child.Welcome, v.Child.Spec},
			v.Child.Tolerated...) {
			if len(m.Payload) > 0 {
				add(script(append(begin[:i:i],
					step{doSealed, frame.Kind(m.Frame[4]), m.Payload})...))
			}
		}
		if i == len(good) {
			return
		}
		begin = append(begin, step{doGood, good[i], nil})
		add(script(begin...))
	}
}

func rest(good []frame.Kind) (list []step) {
	for _, k := range good {
		list = append(list, step{doGood, k, nil})
	}
	return list
}

// side is the fuzzer's side of a pipe.
type side struct {
	conn net.Conn
	said bytes.Buffer // everything written so far
}

func (s *side) write(b []byte) error {
	s.said.Write(b)
	_, err := s.conn.Write(b)
	return err
}

func (s *side) frame(kind frame.Kind, body []byte) error { return s.write(frameBytes(kind, body)) }

// play performs the steps. It gets the bodies of good and sealed frames from make,
// which returns nil for frames that this side never sends.
func (s *side) play(list []step, make func(step) []byte) {
	for _, st := range list {
		var err error
		switch st.do {
		case doGood, doSealed:
			body := make(st)
			if body == nil {
				continue
			}
			err = s.frame(st.kind, body)
		case doFrame:
			err = s.frame(st.kind, st.data)
		case doRaw:
			err = s.write(st.data)
		}
		if err != nil {
			return // the library's side has closed
		}
	}
}

// soonEnough returns a context for one run. If it expires, the run hangs.
func soonEnough() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 20*time.Second)
}

// receiveAll receives until the channel ends. It must end, because the other side
// closes its connection after its last step.
func receiveAll(t *testing.T, ctx context.Context, ch *transport.Channel) {
	t.Helper()
	buf := make([]byte, 64<<10)
	for {
		err := ch.Recv(ctx, new(any))
		if errors.Is(err, transport.ErrWrongKind) {
			_, err = ch.RecvBytes(ctx, buf)
		}
		if err != nil && !errors.As(err, new(*transport.DecodeError)) {
			require.NoError(t, ctx.Err(), "a hang")
			return
		}
	}
}

// pipeListener is a listener in memory.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	a, b := net.Pipe()
	l.conns <- b
	return a
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// FuzzChild lets a fuzzed child connect to a Listener that expects one. The child
// knows the secret, so that the fuzzer reaches the code after each proof. The
// Listener must return a peer only if the child has used the secret.
func FuzzChild(f *testing.F) {
	v := makeVectors(f)
	addScripts(f, v, func(b []byte) {
		f.Add(b)
	}, frame.KindHello, frame.KindReady, frame.KindMessage)
	ln := newPipeListener()
	l, err := Listen(ln, ListenerConfig{})
	require.NoError(f, err)
	f.Cleanup(func() { l.Close() })
	good := map[frame.Kind][]byte{
		frame.KindHello: v.Child.Hello.Body, frame.KindReady: v.Child.Ready.Body,
		frame.KindMessage: {0x01},
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx, cancel := soonEnough()
		defer cancel()
		x := expectVectors(t, l)
		defer awaitNothingHeld(t, l)
		defer x.Cancel()
		child := &side{conn: ln.dial()}
		var both sync.WaitGroup
		both.Go(func() {
			io.Copy(io.Discard, child.conn) // ends when the parent closes
			x.Cancel()
		})
		both.Go(func() {
			child.play(steps(b), func(st step) []byte {
				switch {
				case st.do == doGood:
					return good[st.kind]
				case st.kind == frame.KindHello:
					return seal(vectorSecret, labelHello, st.data)
				}
				return nil
			})
			child.conn.Close()
			// if the child has not authenticated, its end leaves the Listener waiting
			// for the real child
			x.Cancel()
		})
		peer, err := x.WaitForPeer(ctx)
		require.NoError(t, ctx.Err(), "a hang")
		if err == nil {
			receiveAll(t, ctx, peer.Channel)
			peer.Abort()
		}
		both.Wait()
		if err == nil {
			require.True(t, saysHello(child.said.Bytes(), vectorSecret),
				"a peer that did not prove itself")
		}
	})
}

// FuzzParent lets a fuzzed parent answer Join. The child must get a spec only if
// the parent has used the secret for both of its proofs.
func FuzzParent(f *testing.F) {
	v := makeVectors(f)
	addScripts(f, v, func(b []byte) {
		f.Add(b)
	}, frame.KindWelcome, frame.KindSpec, frame.KindMessage)
	good := map[frame.Kind][]byte{
		frame.KindWelcome: v.Child.Welcome.Payload, frame.KindSpec: v.Child.Spec.Payload,
		frame.KindMessage: {0x01},
	}
	ticket := Ticket{vectorAddr, vectorHello.ID, newSecret(vectorSecret)}
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx, cancel := soonEnough()
		defer cancel()
		ours, theirs := net.Pipe()
		parent := &side{conn: theirs}
		proofs := make(map[frame.Kind]bool) // the proofs made by the parent
		var both sync.WaitGroup
		both.Go(func() {
			hello, err := readBody(theirs)
			if err != nil {
				return
			}
			both.Go(func() { io.Copy(io.Discard, theirs) })
			var welcome []byte
			parent.play(steps(b), func(st step) []byte {
				payload := st.data
				if st.do == doGood {
					payload = good[st.kind]
				}
				switch st.kind {
				case frame.KindWelcome:
					proofs[st.kind] = true
					welcome = seal(vectorSecret, labelWelcome, payload, hello)
					return welcome
				case frame.KindSpec:
					proofs[st.kind] = true
					return seal(vectorSecret, labelSpec, payload, hello, welcome)
				}
				return payload
			})
			theirs.Close()
		})
		j, err := Join(ctx, ours, ticket, JoinConfig{Control: true, MaxFrameSize: 1 << 20})
		require.NoError(t, ctx.Err(), "a hang")
		if err == nil {
			j.Ready(ctx, nil)
			receiveAll(t, ctx, j.Channel)
			j.Channel.Abort()
		} else {
			require.ErrorAs(t, err, new(*Error))
		}
		both.Wait()
		if err == nil {
			require.True(t, proofs[frame.KindWelcome] && proofs[frame.KindSpec],
				"orders of nobody who knows the secret")
		}
	})
}

// FuzzPeer lets a fuzzed peer talk to ConnectPeer or AcceptPeer. They must accept
// it only if it has used the key.
func FuzzPeer(f *testing.F) {
	v := makeVectors(f)
	for _, dialer := range []bool{false, true} {
		addScripts(f, v, func(b []byte) {
			f.Add(dialer, b)
		}, frame.KindGreet, frame.KindProof, frame.KindMessage)
	}
	f.Fuzz(func(t *testing.T, dialer bool, b []byte) {
		ctx, cancel := soonEnough()
		defer cancel()
		ours, theirs := net.Pipe()
		fuzzed := &side{conn: theirs}
		proved := false
		var both sync.WaitGroup
		both.Go(func() {
			greet, err := readBody(theirs)
			if err != nil {
				return
			}
			both.Go(func() { io.Copy(io.Discard, theirs) })
			said := []byte(v.Peers.DialerGreet.Body) // the body of the fuzzed greet
			fuzzed.play(steps(b), func(st step) []byte {
				switch {
				case st.kind == frame.KindGreet && st.do == doSealed:
					said = st.data
					return said
				case st.kind == frame.KindGreet:
					return said
				case st.kind == frame.KindProof:
					proved = true
					if dialer { // the library is the dialer
						return encodeProof(mac(vectorKey, labelAcceptor, greet, said))
					}
					return encodeProof(mac(vectorKey, labelDialer, said, greet))
				case st.do == doGood && st.kind == frame.KindMessage:
					return []byte{0x01}
				}
				return nil
			})
			theirs.Close()
		})
		meet := AcceptPeer
		if dialer {
			meet = ConnectPeer
		}
		peer, err := meet(ctx, ours,
			PeerConfig{Identity: Identity{ID: "right", Name: "acceptor", PID: 12},
				Key: vectorKey, MaxFrameSize: 1 << 20})
		require.NoError(t, ctx.Err(), "a hang")
		if err == nil {
			receiveAll(t, ctx, peer.Channel)
			peer.Abort()
		} else {
			require.ErrorAs(t, err, new(*Error))
		}
		both.Wait()
		if err == nil {
			require.True(t, proved, "a peer that did not prove itself")
		}
	})
}

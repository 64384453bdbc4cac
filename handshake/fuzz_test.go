package handshake

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// FuzzHello gives arbitrary bytes to a Listener that expects a child: once as the body of a hello frame,
// and once as a payload that is sealed with the right secret, so that what is behind the proof is
// reached. A hello is accepted only with the proof, and only when it is the expected child's.
func FuzzHello(f *testing.F) {
	v := makeVectors(f)
	f.Add([]byte(v.Child.Hello.Body), false)
	f.Add([]byte(v.Child.Hello.Payload), true)
	for _, n := range v.Refused.Refused {
		if n.Kind != "hello" {
			continue
		}
		f.Add(n.body(), false)
		if s, err := open(transport.KindHello, n.body()); err == nil {
			f.Add(bytes.Clone(s.Payload), true)
		}
	}
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

			s, err := open(transport.KindHello, b)
			require.NoError(t, err)
			require.Equal(t, mac(vectorSecret[:], labelHello, s.Payload), s.MAC, "accepted with no proof")
			require.Equal(t, vectorHello.ID, c.hello.ID)
			require.Len(t, c.hello.Nonce, nonceSize)
			require.LessOrEqual(t, len(c.hello.Name), maxName)
			return
		}
		require.Nil(t, c)
		known := errors.Is(err, ErrBadMAC) || errors.Is(err, transport.ErrProtocol) || errors.Is(err, ErrUnknownPeer)
		require.True(t, known, "%v", err)
		require.LessOrEqual(t, len(err.Error()), 500)
		require.Equal(t, Held{Expected: 1}, l.Held())
	})
}

// FuzzConversation gives arbitrary bytes to a Listener as all that a connection ever says. It always ends,
// leaves nothing, and gets a welcome only for the hello of the expected child.
func FuzzConversation(f *testing.F) {
	v := makeVectors(f)
	hello, attach := v.Child.Hello.Frame, v.Child.Attach.Frame
	f.Add([]byte{})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte(hello))
	f.Add([]byte(hello[:len(hello)-1]))
	f.Add([]byte(attach))
	for _, then := range []vectorFrame{v.Child.Ready, v.Child.Failed, v.Child.Version, v.Child.Welcome, v.Child.Hello, v.Child.Attach} {
		f.Add(append(bytes.Clone(hello), then.Frame...))
		f.Add(append(bytes.Clone(hello), then.Frame[:len(then.Frame)-1]...))
	}
	f.Add(append(frameBytes(transport.KindExtension, make([]byte, 100)), hello...))
	f.Add(append(append(bytes.Clone(hello), v.Child.Ready.Frame...), frameBytes(transport.KindMessage, []byte{0x01})...))
	for _, n := range v.Refused.Refused {
		f.Add([]byte(n.Bytes))
	}
	for _, s := range v.Frames.Streams {
		f.Add([]byte(s.Bytes))
	}

	dir, err := uds.NewDir()
	require.NoError(f, err)
	f.Cleanup(func() { dir.Remove() })
	ln, err := uds.Listen(f.Context(), dir.Addr("l"))
	require.NoError(f, err)
	l, err := Listen(ln, ListenerConfig{})
	require.NoError(f, err)
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 128<<10 {
			return // more than a socket's buffer takes at once
		}
		x := expectVectors(t, l)
		var over sync.WaitGroup
		over.Go(func() {
			<-x.Done()
			x.Cancel() // closes a peer
		})
		conn, err := uds.Dial(t.Context(), dir.Addr("l"))
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		conn.Write(b) // it may be refused in the middle
		conn.CloseWrite()
		answer, err := io.ReadAll(conn)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection goes on")

		if len(answer) > 4 && transport.Kind(answer[4]) == transport.KindWelcome {
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
		for l.Held() != (Held{}) {
			runtime.Gosched() // the conversation's goroutine may have a step to go
		}
	})
}

// saysHello tells whether the first frame, but for extensions, is a hello that knows the key.
func saysHello(b, key []byte) bool {
	for len(b) >= 5 {
		size := int(b[0]) | int(b[1])<<8 | int(b[2])<<16 | int(b[3])<<24
		if size < 1 || len(b) < 4+size {
			return false
		}
		kind, body := transport.Kind(b[4]), b[5:4+size]
		if kind == transport.KindHello {
			s, err := open(kind, body)
			return err == nil && s.verify(key, labelHello) == nil
		}
		if kind < transport.KindExtension {
			return false
		}
		b = b[4+size:]
	}
	return false
}

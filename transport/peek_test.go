package transport_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/transport"
)

func TestAFrameThatWasPeekedIsNotReceivedTwice(t *testing.T) {
	for _, l := range links() {
		for name, next := range map[string]func(t *testing.T, c *transport.Channel){
			"and the next is received": func(*testing.T, *transport.Channel) {},
			"and taken out":            func(_ *testing.T, c *transport.Channel) { c.Unpeek(); c.Unpeek() },
			"nor is the next": func(t *testing.T, c *transport.Channel) {
				f, err := c.PeekFrame(soon(t))
				require.NoError(t, err)
				require.Equal(t, transport.Frame{Kind: transport.KindRaw, Body: []byte("between")}, f)
			},
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				c, peer := l.withRawPeer(t, transport.Config{})
				sent := frame(transport.KindRaw, []byte("first")...)
				if name == "nor is the next" {
					sent = append(sent, frame(transport.KindRaw, []byte("between")...)...)
				}
				large := bytes.Repeat([]byte("x"), 100_000)
				go func() {
					peer.Write(sent)
					peer.Write(append(frame(transport.KindRaw, []byte("second")...), frame(transport.KindRaw, large...)...))
				}()
				f, err := c.PeekFrame(soon(t))
				require.NoError(t, err)
				require.Equal(t, transport.Frame{Kind: transport.KindRaw, Body: []byte("first")}, f)
				next(t, c)
				got, err := c.RecvBorrowed(soon(t))
				require.NoError(t, err)
				require.Equal(t, "second", string(got))
				buf := make([]byte, len(large))
				n, err := c.RecvBytes(soon(t), buf)
				require.NoError(t, err)
				require.True(t, bytes.Equal(large, buf[:n]))
			})
		}
	}
}

// TestWhatCannotBePeekedIsReadAsEver has frames that are large, come in two parts, are of no known kind, of a size that is not allowed, or do not come.
func TestWhatCannotBePeekedIsReadAsEver(t *testing.T) {
	large := frame(transport.KindRaw, make([]byte, 2000)...)
	for _, l := range links() {
		for name, sent := range map[string][][]byte{
			"a large one":            {large},
			"one in two parts":       {frame(transport.KindRaw, 1, 2)[:6], frame(transport.KindRaw, 1, 2)[6:]},
			"half a header":          {frame(transport.KindRaw, 1)[:2], frame(transport.KindRaw, 1)[2:]},
			"behind an extension":    {frame(transport.KindExtension, 1), frame(transport.KindRaw, 2)},
			"together with the next": {append(frame(transport.KindRaw, 1), large...)},
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				c, peer := l.withRawPeer(t, transport.Config{})
				go func() {
					for _, part := range sent {
						peer.Write(part)
						time.Sleep(time.Millisecond) // so that they are not read together, mostly
					}
					peer.Write(frame(transport.KindRaw, 'e', 'n', 'd'))
				}()
				last := ""
				for last != "end" {
					f, err := c.PeekFrame(soon(t))
					require.NoError(t, err)
					require.Equal(t, transport.KindRaw, f.Kind)
					last = string(f.Body)
				}
			})
		}
		t.Run(l.name+", its end", func(t *testing.T) {
			c, peer := l.withRawPeer(t, transport.Config{})
			go func() {
				peer.Write(frame(transport.KindRaw, 1))
				socket(peer).Close()
			}()
			_, err := c.PeekFrame(soon(t))
			require.NoError(t, err)
			for range 2 {
				_, err = c.PeekFrame(soon(t))
				require.ErrorIs(t, err, transport.ErrPeerGone)
			}
		})
		t.Run(l.name+", what is not allowed", func(t *testing.T) {
			c, peer := l.withRawPeer(t, transport.Config{Limit: 100})
			go peer.Write(frame(transport.KindRaw, make([]byte, 100)...))
			_, err := c.PeekFrame(soon(t))
			var size *transport.SizeError
			require.ErrorAs(t, err, &size)
		})
		t.Run(l.name+", a context that ends", func(t *testing.T) {
			c, peer := l.withRawPeer(t, transport.Config{})
			ctx, cancel := context.WithTimeout(soon(t), 10*time.Millisecond)
			defer cancel()
			_, err := c.PeekFrame(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			go peer.Write(frame(transport.KindRaw, 7))
			f, err := c.PeekFrame(soon(t))
			require.NoError(t, err)
			require.Equal(t, []byte{7}, f.Body)
		})
		t.Run(l.name+", a closed channel", func(t *testing.T) {
			c, _ := l.withRawPeer(t, transport.Config{})
			c.Abort()
			_, err := c.PeekFrame(soon(t))
			require.ErrorIs(t, err, transport.ErrClosed)
			c.Unpeek()
		})
	}
}

func TestAConnectionWhoseFrameWasTakenOutEndsWithoutAReset(t *testing.T) {
	for _, l := range sockets {
		t.Run(l.name, func(t *testing.T) {
			x, y := l.connect(t)
			a, b := open(t, x, transport.Config{}), open(t, y, transport.Config{})
			require.NoError(t, a.SendBytes(soon(t), []byte("x")))
			_, err := b.PeekFrame(soon(t))
			require.NoError(t, err)
			b.Unpeek()
			require.NoError(t, b.Abort())
			err = a.Recv(soon(t), new(any))
			require.ErrorIs(t, err, transport.ErrPeerGone)
			assert.NotErrorIs(t, err, transport.ErrReset)
		})
	}
}

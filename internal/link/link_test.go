//go:build unix

package link

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ends are both ends of a connection.
type ends struct {
	near, far *Link
	pipes     [4]*os.File
}

func connect(t testing.TB, near, far Config) *ends {
	t.Helper()
	e := new(ends)
	for i := 0; i < 4; i += 2 {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		e.pipes[i], e.pipes[i+1] = r, w
	}
	e.near = New(e.pipes[0], e.pipes[3], near)
	e.far = New(e.pipes[2], e.pipes[1], far)
	t.Cleanup(func() {
		e.near.Close()
		e.far.Close()
		for _, f := range e.pipes {
			f.Close()
		}
		e.near.Wait()
		e.far.Wait()
	})
	return e
}

// serve serves one stream, and returns the other end of its connection.
func serve(t testing.TB, s *Stream) net.Conn {
	t.Helper()
	ours, theirs := testkit.Unix(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(theirs.(*net.UnixConn))
	}()
	t.Cleanup(func() {
		ours.Close()
		testkit.Receive(t, done)
	})
	return ours
}

func TestStream_ThatNobodyReadsHoldsUpNoOther(t *testing.T) {
	opened := make(chan *Stream, 2)
	e := connect(t, Config{Message: func([]byte) {}},
		Config{Message: func([]byte) {}, Open: func(s *Stream) { opened <- s }})
	open := func(id uint16) (near, far net.Conn) {
		s := e.near.Stream(id)
		s.Open()
		return serve(t, s), serve(t, testkit.Receive(t, opened))
	}
	full, unread := open(7)
	go full.Write(make([]byte, 8<<20)) // until the test's end
	free, read := open(8)
	data := bytes.Repeat([]byte("data"), window)
	go func() {
		free.Write(data)
		free.(*net.UnixConn).CloseWrite()
	}()
	got, err := io.ReadAll(read)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))

	// The other direction is open still.
	_, err = read.Write([]byte("back"))
	require.NoError(t, err)
	back := make([]byte, 4)
	_, err = io.ReadFull(free, back)
	require.NoError(t, err)
	unread.Close()
}

func TestLink_SilenceEndsIt(t *testing.T) {
	for _, c := range []struct {
		name    string
		verdict Verdict
		unknown time.Duration
		ends    bool
	}{
		{"a dead peer", Dead, time.Hour, true},
		{"an unknown one", Unknown, 0, true},
		{"an unknown one with a longer bound", Unknown, time.Hour, false},
		{"a peer that is merely stopped", Alive, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := make(chan struct{}, 1)
			r, w, err := os.Pipe()
			require.NoError(t, err)
			l := New(r, io.Discard, Config{Message: func([]byte) {}, Unknown: c.unknown,
				Silence: 30 * time.Millisecond, Peer: func() Verdict {
					select {
					case asked <- struct{}{}:
					default:
					}
					return c.verdict
				}})
			defer l.Wait()
			defer w.Close()
			defer l.Close()
			testkit.Receive(t, asked)
			if c.ends {
				testkit.Receive(t, l.Done())
				require.ErrorIs(t, l.Err(), ErrSilent)
			} else {
				testkit.Receive(t, asked)
				testkit.Receive(t, asked)
				select {
				case <-l.Done():
					t.Fatal(l.Err())
				default:
				}
			}
		})
	}
}

func TestLink_PingsKeepIt(t *testing.T) {
	quick := Config{Message: func([]byte) {}, Silence: time.Second,
		Peer: func() Verdict { return Dead }}
	e := connect(t, quick, quick)
	before := e.near.heard.Load()
	testkit.Eventually(t, "pings", func() bool { return e.near.heard.Load() > before+2 })
	assert.NoError(t, e.near.Err())
}

func TestLink_RefusesWhatIsMalformed(t *testing.T) {
	frame := func(k kind, size int, body []byte) []byte {
		b := make([]byte, headerSize)
		putHeader(b, k, 1, size)
		return append(b, body...)
	}
	for name, c := range map[string]struct {
		sent []byte
		says string
	}{
		"too long":           {frame(kindData, chunk+1, nil), "the limit is"},
		"unknown kind":       {frame(99, 0, nil), "kind 99"},
		"malformed credit":   {frame(kindCredit, 1, []byte{1}), "credit"},
		"unexpected stream":  {frame(kindOpen, 0, nil), "not expected"},
		"end within a frame": {frame(kindData, 5, nil), "EOF"},
		"more than a window": {bytes.Repeat(frame(kindData, chunk, make([]byte, chunk)), 17),
			"more data than its window"},
	} {
		t.Run(name, func(t *testing.T) {
			r, w := io.Pipe()
			l := New(r, io.Discard, Config{Message: func([]byte) {}})
			l.Stream(1) // before its frames come
			written := testkit.Background(t, func() error {
				w.Write(c.sent) // fails if the Link ends before
				return w.Close()
			})
			testkit.Receive(t, l.Done())
			r.Close()
			require.NoError(t, written())
			l.Wait()
			require.ErrorContains(t, l.Err(), c.says)
		})
	}
}

func TestOrder_IsParsed(t *testing.T) {
	nonce, silence, err := ParseOrder(Order("ABC", 3*time.Second))
	require.NoError(t, err)
	assert.Equal(t, "ABC", nonce)
	assert.Equal(t, 3*time.Second, silence)
	for _, bad := range []string{"", "ABC", "ABC x", "ABC 0", "ABC -1"} {
		_, _, err := ParseOrder(bad)
		assert.Error(t, err, bad)
	}
}

func TestLink_LargeMessageIsWhole(t *testing.T) {
	got := make(chan int, 1)
	e := connect(t, Config{Message: func([]byte) {}}, Config{Message: func(body []byte) {
		var m ToFar
		assert.NoError(t, Decode(body, &m))
		got <- len(m.Start.Env[0])
	}})
	require.True(t, e.near.Send(ToFar{Start: &Start{Env: []string{strings.Repeat("x", 300_000)}}}))
	assert.Equal(t, 300_000, testkit.Receive(t, got))
}

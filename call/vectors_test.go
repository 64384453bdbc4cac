package call

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

var update = flag.Bool("update", false, "write testdata/call.json")

// vectors is testdata/call.json.
type vectors struct {
	Comment string          `json:"comment"`
	Frames  []vectorFrame   `json:"frames"`
	Refused []refusedVector `json:"refused"`
	Ignored []refusedVector `json:"ignored"`
}

type vectorFrame struct {
	What      string         `json:"what"`
	Operation string         `json:"operation"`
	Flags     byte           `json:"flags"`
	ID        uint64         `json:"id"`
	Fields    map[string]any `json:"fields,omitempty"`
	Frame     string         `json:"frame"`
}

// refusedVector is what a receiver in a state must refuse, or ignore.
type refusedVector struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Bytes string `json:"bytes"`
}

func framed(h head, body ...[]byte) []byte { return appendFrame(nil, h, body...) }

func openBody(o opening) []byte {
	e := newEncoded()
	o.appendTo(&e.buf)
	return append(append([]byte(nil), e.buf.Bytes()[bodyStart:]...), o.value...)
}

func credit(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

func size(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

var helloFrame = framed(head{op: opHello}, hello{2, 4096, 10_000}.encode())

// makeVectors makes testdata/call.json from fixed inputs.
func makeVectors() vectors {
	v := vectors{Comment: "Test vectors of docs/PROTOCOL-call.md; see README.md."}
	add := func(what string, h head, fields map[string]any, body ...[]byte) {
		v.Frames = append(v.Frames, vectorFrame{what, h.op.String(), byte(h.flags), h.id, fields,
			hex.EncodeToString(framed(h, body...))})
	}
	type m = map[string]any
	word := []byte("\x65hello")
	pairs, _ := Metadata{"traceparent": "00-4bf9-00f0-01"}.encode()
	add("hello", head{op: opHello}, m{"calls": 2, "window": 4096, "message": 10_000},
		hello{2, 4096, 10_000}.encode())
	add("a unary call", head{opOpen, flagCaller | flagValue | flagEnd, 1},
		m{"time": 0, "method": "echo", "message": "65" + hex.EncodeToString([]byte("hello"))},
		openBody(opening{method: "echo", value: word}))
	add("its result", head{opResult, flagValue, 1}, nil, word)
	add("with a time and metadata", head{opOpen, flagCaller | flagValue | flagEnd, 2},
		m{"time": 1_500_000_000, "method": "echo",
			"metadata": []string{"traceparent", "00-4bf9-00f0-01"}},
		openBody(opening{
			timeout: 1500 * time.Millisecond, method: "echo", metadata: pairs, value: word,
		}))
	add("a stream", head{opOpen, flagCaller, 3}, m{"time": 0, "method": "shell"},
		openBody(opening{method: "shell"}))
	add("started", head{opStarted, flagValue, 3}, nil, []byte("\x19\x10\xe1"))
	add("a message of the caller", head{opData, flagCaller | flagValue, 3}, nil, word)
	add("the first part", head{opData, flagValue | flagMore, 3}, m{"size": 6}, size(6), word[:2])
	add("the second part", head{opData, flagValue | flagMore, 3}, nil, word[2:4])
	add("the last part", head{opData, flagValue | flagEnd, 3}, nil, word[4:])
	add("the end of the caller's messages", head{opData, flagCaller | flagEnd, 3}, nil)
	add("credit", head{opCredit, flagCaller, 3}, m{"credit": 8192}, credit(8192))
	add("cancel", head{opCancel, flagCaller, 3},
		m{"code": "canceled", "by": "shell[77]", "reason": "context canceled"},
		cancellation{CodeCanceled, "shell[77]", "context canceled"}.encode())
	add("an error", head{opResult, flagError, 3},
		m{"code": "failed", "text": "open x: no such file or directory",
			"is": []string{"fs.ErrNotExist"}, "errno": 2, "os": "linux"},
		encodeError(&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, ""))
	add("go away", head{op: opGoAway}, nil)
	v.Refused, v.Ignored = refusals(word)
	return v
}

// refusals has what a Conn must refuse and ignore. Its window is 4096, and it takes
// two calls. State "new" is before the hello, "open" after it, and in state "calling"
// the Conn has opened call 1.
func refusals(word []byte) (refused, ignored []refusedVector) {
	one := flagCaller | flagValue | flagEnd
	echo := openBody(opening{method: "echo", value: word})
	open := func(id uint64) []byte { return framed(head{opOpen, one, id}, echo) }
	stream := framed(head{opOpen, flagCaller, 1}, openBody(opening{method: "wait"}))
	data := func(f flags, body ...[]byte) []byte {
		return framed(head{opData, flagCaller | flagValue | f, 1}, body...)
	}
	no := func(name, state string, frames ...[]byte) {
		refused = append(refused, refusedVector{name, state, hex.EncodeToString(join(frames))})
	}
	yes := func(name, state string, frames ...[]byte) {
		ignored = append(ignored, refusedVector{name, state, hex.EncodeToString(join(frames))})
	}
	no("a call before the hello", "new", open(1))
	no("a second hello", "open", helloFrame)
	no("a hello of another version", "new", framed(head{op: opHello},
		[]byte("\xa4\x68versions\x82\x02\x02\x65calls\x02\x66window\x19\x10\x00\x67message\x0a")))
	no("a hello without limits", "new", framed(head{op: opHello},
		[]byte("\xa1\x68versions\x82\x01\x01")))
	no("a small window", "new", framed(head{op: opHello}, hello{2, 100, 100}.encode()))
	no("a cut head", "open", frameOfCall(0x02, 0x01, 0x01))
	no("an unknown operation", "open", framed(head{op: 0x0f, id: 1}))
	no("operation 0", "open", framed(head{id: 1}))
	no("unknown flags", "open", framed(head{opOpen, one | 0x40, 1}, echo))
	no("more without a message", "open", stream, framed(head{opData, flagCaller | flagMore, 1}))
	no("more and end together", "open", stream, data(flagMore|flagEnd, size(9), word))
	no("an open of a callee", "open", framed(head{opOpen, flagValue, 1}, echo))
	no("an open with id 0", "open", open(0))
	no("an id that was used", "open", open(2), open(2))
	no("a lower id", "open", open(2), open(1))
	no("more calls than allowed", "open", stream,
		framed(head{opOpen, flagCaller, 2}, openBody(opening{method: "wait"})), open(3))
	no("an open that is cut", "open", framed(head{opOpen, one, 1}, echo[:8]))
	no("a method that is cut", "open", framed(head{opOpen, one, 1}, echo[:10]))
	no("no method", "open", framed(head{opOpen, one, 1}, openBody(opening{})))
	no("a negative time", "open", framed(head{opOpen, one, 1},
		openBody(opening{timeout: -1, method: "echo", value: word})))
	no("metadata that is no array", "open", framed(head{opOpen, one, 1},
		openBody(opening{method: "echo", metadata: []byte{0xa0}})))
	no("metadata with a key alone", "open", framed(head{opOpen, one, 1},
		openBody(opening{method: "echo", metadata: []byte("\x81\x61x")})))
	no("a message of a call that was not opened", "open", data(0, word))
	no("more than the credit", "open", stream, data(0, make([]byte, 4065)))
	no("more than the credit, in empty messages", "open",
		append([][]byte{stream}, repeat(data(0), 129)...)...)
	no("a message over the limit", "open", stream, data(flagMore, size(10_001), word))
	no("a part without its size", "open", stream, data(flagMore, word[:3]))
	no("an empty part", "open", stream, data(flagMore, size(9), nil))
	no("parts of more than the message", "open", stream, data(flagMore, size(6), word[:4]),
		data(0, word[:3]))
	no("parts of less than the message", "open", stream, data(flagMore, size(6), word[:4]),
		data(0, word[:1]))
	no("more after the last byte", "open", stream, data(flagMore, size(6), word))
	no("a message after the end", "open", stream, data(flagEnd, word), data(0, word))
	no("the end within a message", "open", stream, data(flagMore, size(6), word[:4]),
		framed(head{opData, flagCaller | flagEnd, 1}))
	no("a credit of 4 bytes", "open", stream, framed(head{opCredit, flagCaller, 1}, size(1)))
	no("a cancel that is no map", "open", stream, framed(head{opCancel, flagCaller, 1}, word))
	no("a result of a caller", "open", framed(head{opResult, flagCaller, 1}))
	no("a result of a call that is not open", "open", framed(head{opResult, flagValue, 1}, word))
	no("a second result", "calling", framed(head{opResult, flagValue, 1}, word),
		framed(head{opResult, flagValue, 1}, word))
	no("a result with value and error", "calling",
		framed(head{opResult, flagValue | flagError, 1}, word))
	no("an error that is no map", "calling", framed(head{opResult, flagError, 1}, word))
	no("a result within a message", "calling",
		framed(head{opData, flagValue | flagMore, 1}, size(6), word[:4]),
		framed(head{opResult, 0, 1}))
	no("started a second time", "calling", framed(head{opStarted, 0, 1}),
		framed(head{opStarted, 0, 1}))
	no("started after a message", "calling", framed(head{opData, flagValue, 1}, word),
		framed(head{opStarted, 0, 1}))
	no("started within a message", "calling",
		framed(head{opData, flagValue | flagMore, 1}, size(6), word[:4]),
		framed(head{opStarted, flagValue, 1}, word))
	no("more than the caller's credit", "calling",
		framed(head{opData, flagValue, 1}, make([]byte, 4065)))
	no("a message of the callee after its end", "calling",
		framed(head{opData, flagValue | flagEnd, 1}, word),
		framed(head{opData, flagValue, 1}, word))
	yes("messages of a caller and their end", "open", stream, data(0, word),
		data(flagMore, size(6), word[:4]), data(flagEnd, word[4:]))
	yes("the end of no messages", "open", stream,
		framed(head{opData, flagCaller | flagEnd, 1}))
	yes("started, messages and a result", "calling", framed(head{opStarted, flagValue, 1}, word),
		framed(head{opData, flagValue, 1}, word), framed(head{opResult, flagValue, 1}, word))
	yes("started without a value", "calling", framed(head{opStarted, 0, 1}),
		framed(head{opResult, 0, 1}))
	yes("an extension", "open", framed(head{op: 0x80, flags: 0xff, id: 9}, word))
	yes("a lower credit", "open", stream, framed(head{opCredit, flagCaller, 1}, credit(1)))
	yes("frames of a call that may have ended", "open",
		framed(head{opOpen, flagCaller | flagValue, 1}, echo), data(0, word),
		framed(head{opCredit, flagCaller, 1}, credit(9)),
		framed(head{opCancel, flagCaller, 1}, cancellation{code: CodeCanceled}.encode()))
	yes("a go away with a body", "open", framed(head{op: opGoAway}, word))
	yes("an unknown method", "open", framed(head{opOpen, one, 1}, openBody(opening{method: "x"})))
	yes("a call without its message", "open", framed(head{opOpen, flagCaller | flagEnd, 1},
		openBody(opening{method: "echo"})))
	return refused, ignored
}

func frameOfCall(body ...byte) []byte {
	b := make([]byte, frame.HeaderSize, frame.HeaderSize+len(body))
	frame.PutHeader(b, frame.KindCall, len(body))
	return append(b, body...)
}

func join(frames [][]byte) (all []byte) {
	for _, f := range frames {
		all = append(all, f...)
	}
	return all
}

func repeat(f []byte, n int) (all [][]byte) {
	for range n {
		all = append(all, f)
	}
	return all
}

func TestVectors(t *testing.T) {
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetIndent("", "  ")
	require.NoError(t, enc.Encode(makeVectors()))
	path := filepath.Join(testkit.Root(t), "testdata", "call.json")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(text.String()), 0o644))
	}
	assert.Equal(t, testkit.ReadFile(t, path), text.String(),
		"run: go test ./call -run Vectors -update")
	for _, f := range makeVectors().Frames {
		h, _, err := parseHead(testkit.Hex(t, f.Frame)[frame.HeaderSize:])
		require.NoError(t, err, f.What)
		assert.Equal(t, head{h.op, flags(f.Flags), f.ID}, h)
	}
}

// victim is a Conn in a state of refusals, and the other end of its connection.
func victim(t testing.TB, state string) (*Conn, net.Conn) {
	t.Helper()
	x, y := testkit.Unix(t)
	require.NoError(t, y.SetDeadline(time.Now().Add(testkit.Patience)))
	mux := NewMux()
	NewUnary[string, string]("echo").Handle(mux,
		func(_ context.Context, s string) (string, error) { return s, nil })
	NewBidi[any, any]("wait").Handle(mux, func(ctx context.Context, _ *Stream[any, any]) error {
		<-ctx.Done()
		return ctx.Err()
	})
	ch := transport.New(x, transport.Config{})
	c := Config{
		MaxCalls: 2, Memory: 20_000, MaxMessage: 10_000, CancelGrace: testkit.Patience,
	}.New(Over(ch), mux)
	t.Cleanup(func() {
		assert.NoError(t, c.Close())
		ch.Abort()
	})
	if state == "new" {
		return c, y
	}
	_, err := y.Write(helloFrame)
	require.NoError(t, err)
	if state == "calling" {
		s, err := NewBidi[any, any]("wait").Open(testkit.Context(t), c)
		require.NoError(t, err)
		_ = s
	}
	return c, y
}

func TestProtocol_ViolationsEndTheConnection(t *testing.T) {
	for _, v := range makeVectors().Refused {
		t.Run(v.Name, func(t *testing.T) {
			c, peer := victim(t, v.State)
			go peer.Write(testkit.Hex(t, v.Bytes))
			testkit.Receive(t, c.Done())
			assert.ErrorIs(t, c.Err(), ErrProtocol)
			all, err := io.ReadAll(peer)
			if err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
			assert.Contains(t, string(all), "protocol violation", "the goodbye")
		})
	}
}

func TestProtocol_OtherThingsAreTaken(t *testing.T) {
	for _, v := range makeVectors().Ignored {
		t.Run(v.Name, func(t *testing.T) {
			c, peer := victim(t, v.State)
			_, err := peer.Write(append(testkit.Hex(t, v.Bytes),
				framed(head{opOpen, flagCaller | flagValue | flagEnd, 7},
					openBody(opening{method: "echo", value: []byte("\x65alive")}))...))
			require.NoError(t, err)
			want := string(framed(head{opResult, flagValue, 7}, []byte("\x65alive")))
			var got []byte
			for buf := make([]byte, 1000); !strings.Contains(string(got), want); {
				n, err := peer.Read(buf)
				require.NoError(t, err, "%q", got)
				got = append(got, buf[:n]...)
			}
			assert.NoError(t, c.Err())
		})
	}
}

// FuzzFrames feeds bytes to a Conn in each state. It must neither panic nor hang nor
// keep more than its memory.
func FuzzFrames(f *testing.F) {
	for _, v := range append(makeVectors().Refused, makeVectors().Ignored...) {
		data, err := hex.DecodeString(v.Bytes)
		require.NoError(f, err)
		f.Add(v.State == "calling", data)
	}
	for _, v := range makeVectors().Frames {
		data, err := hex.DecodeString(v.Frame)
		require.NoError(f, err)
		f.Add(false, data)
		f.Add(true, data)
	}
	f.Fuzz(func(t *testing.T, calling bool, data []byte) {
		state := "open"
		if calling {
			state = "calling"
		}
		c, peer := victim(t, state)
		go io.Copy(io.Discard, peer)
		peer.Write(data)
		peer.Close()
		select {
		case <-c.Done():
		case <-time.After(testkit.Patience):
			t.Fatal("the connection does not end")
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		kept := 0
		for _, x := range c.theirs {
			for _, m := range x.in.ready {
				kept += len(m.b)
			}
		}
		assert.LessOrEqual(t, kept, c.cfg.Memory)
	})
}

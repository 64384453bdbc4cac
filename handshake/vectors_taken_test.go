package handshake

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// takenFile has frames for receivers in a state.
type takenFile struct {
	About []string      `json:"about"`
	Taken []vectorTaken `json:"taken"`
	Ends  []vectorEnd   `json:"ends"`
}

// vectorTaken is whole frames up to the end of the handshake, or up to a message. The
// receiver must take them. On an open channel it sends the frames in Answers.
type vectorTaken struct {
	Name     string `json:"name"`
	Receiver string `json:"receiver"`
	State    string `json:"state"`
	Limit    int    `json:"limit,omitempty"`
	Bytes    hexa   `json:"bytes"`
	Answers  hexa   `json:"answers,omitempty"`
}

// vectorEnd is a frame that ends a handshake. Does is the effect.
type vectorEnd struct {
	Name     string `json:"name"`
	Receiver string `json:"receiver"`
	State    string `json:"state"`
	Kind     string `json:"kind"`
	Bytes    hexa   `json:"bytes"`
	Does     string `json:"does"`
}

// These pairs stand only here.
var (
	acceptorGreets = [2]string{"acceptor", "greeting"}
	dialerGreets   = [2]string{"dialer", "greeting"}
)

func takenVectors(child childFile, peers peersFile) takenFile {
	file := takenFile{About: []string{
		"taken: frames that a receiver in that state must take, with what may stand between them.",
		"ends: frames with which the other side ends a handshake, and what the receiver does.",
	}}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	add := func(name string, who [2]string, limit int, said, answers []byte) {
		file.Taken = append(file.Taken,
			vectorTaken{name, who[0], who[1], limit, said, answers})
	}
	extension := frameBytes(0x80, []byte("anything"))
	other := frameBytes(0xff, nil)
	add("extensions in front of welcome and spec", childGreeted, 0,
		join(extension, other, child.Welcome.Frame, other, extension, child.Spec.Frame), nil)
	add("an extension in front of a spec", childWelcomed, 0,
		join(extension, child.Spec.Frame), nil)
	add("extensions in front of greet and proof", acceptorGreets, 0,
		join(extension, peers.DialerGreet.Frame, other, peers.DialerProof.Frame), nil)
	add("extensions in front of greet and proof", dialerGreets, 0,
		join(extension, peers.AcceptorGreet.Frame, other, peers.AcceptorProof.Frame), nil)
	message := frameBytes(frame.KindMessage, []byte("\x65hello"))
	add("an extension in front of a message", inOpen, 0, join(extension, message), nil)
	add("a message with a tag, a float and indefinite lengths", inOpen, 0,
		frameBytes(frame.KindMessage,
			[]byte("\xbf\x61a\xc1\x00\x61b\xf9\x3c\x00\x61c\x9f\xff\xff")), nil)
	add("raw bytes, none", inOpen, 0, frameBytes(frame.KindRaw, nil), nil)
	long := bytes.Repeat([]byte("p"), 64)
	for _, ping := range [][]byte{nil, {1, 2, 3}, long} {
		add(fmt.Sprintf("a ping of %d bytes", len(ping)), inOpen, 0,
			join(frameBytes(frame.KindPing, ping), message), frameBytes(frame.KindPong, ping))
	}
	add("two pings", inOpen, 0,
		join(frameBytes(frame.KindPing, []byte("a")), frameBytes(frame.KindPing, []byte("b")),
			message),
		join(frameBytes(frame.KindPong, []byte("a")), frameBytes(frame.KindPong, []byte("b"))))
	add("a pong that answers nothing", inOpen, 0,
		join(frameBytes(frame.KindPong, []byte("stray")), message), nil)
	add("a frame as large as the limit", inOpen, 64,
		frameBytes(frame.KindRaw, make([]byte, 63)), nil)
	add("more extensions in a row than one frame may have", inOpen, 64,
		join(frameBytes(0x80, make([]byte, 63)), other, message), nil)

	end := func(name string, who [2]string, does string, kind frame.Kind, body []byte) {
		file.Ends = append(file.Ends, vectorEnd{name, who[0], who[1], kind.String(),
			frameBytes(kind, body), does})
	}
	cancel := frame.Cancel{Reason: "no use for it"}.Frame().Body
	end("please stop", childWelcomed, "exit", frame.KindCancel, cancel)
	end("a cancel that cannot be read", childWelcomed, "exit", frame.KindCancel,
		[]byte("\xa1\x65grace\x20"))
	end("a cancel with no body", childWelcomed, "exit", frame.KindCancel, nil)
	for _, who := range [][2]string{childGreeted, childWelcomed} {
		end("the parent gives up", who, "fail", frame.KindFailed, child.Failed.Body)
	}
	end("the hello is not accepted", childGreeted, "fail", frame.KindFailed, child.Refused.Body)
	for _, who := range [][2]string{childGreeted, acceptorGreets, dialerGreets} {
		end("no version in common", who, "fail", frame.KindFailed, child.Version.Body)
	}
	for _, who := range [][2]string{acceptorGreets, dialerGreets, acceptorProof, dialerProof} {
		end("the other side gives up", who, "fail", frame.KindFailed, child.Refused.Body)
	}
	return file
}

// before returns the frames before the state of the receiver.
func (v vectors) before(receiver, state string) []byte {
	switch [2]string{receiver, state} {
	case childWelcomed:
		return v.Child.Welcome.Frame
	case acceptorProof:
		return v.Peers.DialerGreet.Frame
	case dialerProof:
		return v.Peers.AcceptorGreet.Frame
	}
	return nil
}

// exchange is the input of converse.
type exchange struct {
	receiver string
	limit    int // of an open channel
	said     []byte
	answers  int  // bytes from an open channel
	message  bool // after the handshake
}

// converse runs the receiver with the frames and returns its error. The receiver
// makes a hello or greet of its own, so converse makes the MACs for that one. heard
// has all frames from the receiver, which answers pings with answers bytes.
func (v vectors) converse(t *testing.T, c exchange) (heard []byte, err error) {
	a, b := net.Pipe()
	defer b.Close()
	var all bytes.Buffer
	done, answered := make(chan struct{}), make(chan struct{})
	write := make(chan []byte, 1)
	go func() { // the receiver writes while it reads
		defer close(done)
		if c.receiver != "any" {
			first, err := readBody(io.TeeReader(b, &all))
			if err != nil {
				return
			}
			write <- v.sealedFor(c.receiver, c.said, first)
		} else {
			write <- c.said
			io.CopyN(&all, b, int64(c.answers)) // a channel answers pings in the background
		}
		close(answered)
		io.Copy(&all, b)
	}()
	go func() { b.Write(<-write) }()
	ctx := patientContext(t)
	ch, err := v.receive(ctx, a, c.receiver, c.limit)
	if err == nil && c.message {
		err = ch.Recv(ctx, new(any))
	}
	if err == nil {
		<-answered
		ch.Abort()
	}
	a.Close()
	<-done
	return all.Bytes(), err
}

// receive runs the receiver and returns its channel.
func (v vectors) receive(
	ctx context.Context, conn net.Conn, receiver string, limit int,
) (*transport.Channel, error) {
	switch receiver {
	case "child":
		j, err := Join(ctx, conn, Ticket{vectorAddr, vectorHello.ID, newSecret(vectorSecret)},
			JoinConfig{})
		if err != nil {
			return nil, err
		}
		_, err = spawnspec.Unmarshal(j.Spec)
		return j.Channel, err
	case "any":
		ch := newChannel(conn, func(Cancel) {})
		frames(ch).SetMaxSize(limit)
		err := ch.Recv(ctx, new(any))
		if errors.Is(err, transport.ErrWrongKind) { // raw bytes
			_, err = ch.RecvBytes(ctx, make([]byte, 1<<10))
		}
		return ch, err
	}
	me, meet := vectorGreets[1], AcceptPeer
	if receiver == "dialer" {
		me, meet = vectorGreets[0], ConnectPeer
	}
	p, err := meet(ctx, conn,
		PeerConfig{Identity: Identity{me.ID, me.Name, me.PID}, Key: vectorKey})
	if err != nil {
		return nil, err
	}
	return p.Channel, nil
}

// sealedFor returns the frames with MACs for the receiver's own first message.
func (v vectors) sealedFor(receiver string, said, first []byte) (frames []byte) {
	var welcomed []byte
	theirs := v.Peers.DialerGreet.Body
	if receiver == "dialer" {
		theirs = v.Peers.AcceptorGreet.Body
	}
	for len(said) > 0 {
		n := 4 + int(binary.LittleEndian.Uint32(said))
		if n > len(said) {
			return append(frames, said...) // a frame whose body does not come
		}
		kind, body := frame.Kind(said[4]), said[5:n]
		switch kind {
		case frame.KindWelcome:
			body = seal(v.Child.Secret, labelWelcome, payloadOf(body), first)
			welcomed = body
		case frame.KindSpec:
			body = seal(v.Child.Secret, labelSpec, payloadOf(body), first, welcomed)
		case frame.KindProof:
			if receiver == "dialer" {
				body = encodeProof(mac(vectorKey, labelAcceptor, first, theirs))
			} else {
				body = encodeProof(mac(vectorKey, labelDialer, theirs, first))
			}
		}
		frames = append(frames, frameBytes(kind, body)...)
		said = said[n:]
	}
	return frames
}

func payloadOf(body []byte) []byte {
	s, _ := open(frame.KindSpec, body)
	return s.payload
}

// Go's own receivers take these frames.
func TestVectors_TakenOnes(t *testing.T) {
	all := makeVectors(t)
	for _, v := range all.Taken.Taken {
		t.Run(v.Receiver+" "+v.State+" "+v.Name, func(t *testing.T) {
			said := append(bytes.Clone(all.before(v.Receiver, v.State)), v.Bytes...)
			heard, err := all.converse(t, exchange{receiver: v.Receiver, limit: v.Limit,
				said: said, answers: len(v.Answers)})
			require.NoError(t, err)
			if v.Receiver == "any" {
				assert.Equal(t, string(v.Answers), string(heard))
			}
		})
	}
}

// A receiver does not answer a failed frame.
func TestVectors_Ends(t *testing.T) {
	all := makeVectors(t)
	for _, v := range all.Taken.Ends {
		t.Run(v.Receiver+" "+v.State+" "+v.Kind+" "+v.Name, func(t *testing.T) {
			said := append(bytes.Clone(all.before(v.Receiver, v.State)), v.Bytes...)
			heard, err := all.converse(t, exchange{receiver: v.Receiver, said: said})
			assert.Equal(t, v.Does == "exit", errors.Is(err, access.ErrDismissed), "%v", err)
			var failed *FailedError
			var version *VersionError
			assert.Equal(t, v.Does == "fail", errors.As(err, &failed) || errors.As(err, &version),
				"%v", err)
			assert.Empty(t, failedCode(heard), "who reads a failed frame does not send one")
		})
	}
}

package handshake

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// largeFile has the vectors that would be too long in hexadecimal.
type largeFile struct {
	About []string      `json:"about"`
	Large []vectorLarge `json:"large"`
}

// vectorLarge is Start, then Fill repeated Times times, then End. A receiver
// refuses it if it has an Error, and accepts it otherwise.
type vectorLarge struct {
	Name     string `json:"name"`
	Receiver string `json:"receiver"`
	State    string `json:"state"`
	Limit    int    `json:"limit,omitempty"`
	Message  bool   `json:"message,omitempty"` // the last frame is one, after the handshake
	Start    hexa   `json:"start"`
	Fill     hexa   `json:"fill"`
	Times    int    `json:"times"`
	End      hexa   `json:"end"`
	Error    string `json:"error,omitempty"`
	Answer   string `json:"answer,omitempty"`
	May      bool   `json:"may,omitempty"` // see vectorRefused
}

func (v vectorLarge) bytes() []byte {
	return append(append(bytes.Clone(v.Start), bytes.Repeat(v.Fill, v.Times)...), v.End...)
}

func largeVectors(child childFile, peers peersFile) largeFile {
	f := largeFile{About: []string{
		"Long frames, which the receiver takes or refuses: start, then times fill, then end.",
		"The rest is as in refused.json. What has no error is taken.",
	}}
	add := func(name string, who [2]string, whole []byte, fill byte, times int,
		wireError, answer string) {
		at := bytes.Index(whole, bytes.Repeat([]byte{fill}, times))
		f.Large = append(f.Large,
			vectorLarge{name, who[0], who[1], 0, false, whole[:at], hexa{fill}, times,
				whole[at+times:], wireError, answer, wireError == "bad-spec"})
	}
	const times = 70_000
	text := append([]byte("\x7a\x00\x01\x11\x70"), bytes.Repeat([]byte("y"), times)...)
	add("a message", inOpen, frameBytes(frame.KindMessage, text), 'y', times, "", "")
	spec := bytes.Replace(child.Spec.Payload, []byte("\xa1\x65width\x19\x02\x80"), text, 1)
	add("a spec", childWelcomed,
		frameBytes(frame.KindSpec,
			seal(child.Secret, labelSpec, spec, child.Hello.Body, child.Welcome.Body)), 'y', times,
		"",
		"")
	skipped := append(frameBytes(0x80, make([]byte, access.PreAuthLimit-1)),
		frameBytes(0x80, nil)...)
	const longest = 32_767
	dir := func(n int) []byte {
		more := more(child.Spec.Payload, 1, "\x63dir\x79")
		more = append(binary.BigEndian.AppendUint16(more, uint16(n)), '/')
		return frameBytes(frame.KindSpec, seal(child.Secret, labelSpec,
			append(more, bytes.Repeat([]byte("d"), n-1)...), child.Hello.Body, child.Welcome.Body))
	}
	add("the longest dir", childWelcomed, dir(longest), 'd', longest-1, "", "")
	add("a dir of a byte more", childWelcomed, dir(longest+1), 'd', longest, "bad-spec",
		codeBadSpec)
	add("65537 bytes of extensions, and a message", inOpen,
		append(skipped, frameBytes(frame.KindMessage, []byte("\x65hello"))...), 0,
		access.PreAuthLimit-1, "", "")
	f.Large = append(f.Large, f.Large[len(f.Large)-1])
	f.Large[len(f.Large)-1].Limit = access.PreAuthLimit
	after := func(name string, who [2]string, proof []byte, whole []byte, fill byte, times int) {
		add(name, who, slices.Concat(proof, whole), fill, times, "", "")
		f.Large[len(f.Large)-1].Message = true
	}
	for _, side := range []struct {
		who   [2]string
		proof hexa
	}{{acceptorProof, peers.DialerProof.Frame}, {dialerProof, peers.AcceptorProof.Frame}} {
		after("a proof and a long message", side.who, side.proof,
			frameBytes(frame.KindMessage, text), 'y', times)
		after("a proof, 65537 bytes of extensions and a message", side.who, side.proof,
			append(skipped, frameBytes(frame.KindMessage, []byte("\x65hello"))...), 0,
			access.PreAuthLimit-1)
	}
	add("65537 bytes of extensions", peerGreeting, skipped, 0, access.PreAuthLimit-1,
		"skipped-too-much", codeRefused)
	add("65537 bytes of extensions", childAttached, skipped, 0,
		access.PreAuthLimit-1, "skipped-too-much", "")
	return f
}

func TestVectors_LargeOnes(t *testing.T) {
	all := makeVectors(t)
	for _, v := range all.Large.Large {
		t.Run(v.Receiver+" "+v.State+" "+v.Name, func(t *testing.T) {
			who := [2]string{v.Receiver, v.State}
			switch who {
			case childAttached:
				return // package forkspawn reads this connection and tests it
			case childWelcomed:
				spec, err := openSpec(startMAC(all.Child.Secret, labelSpec, all.Child.Hello.Body,
					all.Child.Welcome.Body), v.bytes()[5:])
				require.NoError(t, err)
				_, err = spawnspec.Unmarshal(spec)
				assert.Equal(t, v.Error != "", err != nil && isSpecError(err), "%v", err)
				return
			}
			if v.Message {
				_, err := all.converse(t, exchange{receiver: v.Receiver, message: true,
					said: append(bytes.Clone(all.before(v.Receiver, v.State)), v.bytes()...)})
				require.NoError(t, err)
				return
			}
			said, err := refuse[who](t, all, vectorRefused{Bytes: v.bytes(), Limit: v.Limit})
			if v.Error == "" {
				require.NoError(t, err)
				return
			}
			require.Error(t, err)
			assert.True(t, wireErrors[v.Error].is(err), "want %s, got: %v", v.Error, err)
			assert.Equal(t, v.Answer, failedCode(said))
		})
	}
}

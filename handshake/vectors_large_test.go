package handshake

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// largeFile has what would be too long in hexadecimal.
type largeFile struct {
	About []string      `json:"about"`
	Large []vectorLarge `json:"large"`
}

// vectorLarge is start, then fill as often as times says, then end. It is refused if it has an error, else taken.
type vectorLarge struct {
	Name     string `json:"name"`
	Receiver string `json:"receiver"`
	State    string `json:"state"`
	Start    hexa   `json:"start"`
	Fill     hexa   `json:"fill"`
	Times    int    `json:"times"`
	End      hexa   `json:"end"`
	Error    string `json:"error,omitempty"`
	Answer   string `json:"answer,omitempty"`
}

func (v vectorLarge) bytes() []byte {
	return append(append(bytes.Clone(v.Start), bytes.Repeat(v.Fill, v.Times)...), v.End...)
}

func largeVectors(child childFile) largeFile {
	f := largeFile{About: []string{
		"Frames above 65,536 bytes, which the receiver takes, or refuses: start, then times fill, then end.",
		"The rest is as in refused.json. What has no error is taken.",
	}}
	add := func(name string, who [2]string, whole []byte, fill byte, times int, wireError, answer string) {
		at := bytes.Index(whole, bytes.Repeat([]byte{fill}, times))
		f.Large = append(f.Large, vectorLarge{name, who[0], who[1], whole[:at], hexa{fill}, times, whole[at+times:], wireError, answer})
	}
	const times = 70_000
	text := append([]byte("\x7a\x00\x01\x11\x70"), bytes.Repeat([]byte("y"), times)...)
	add("a message", inOpen, frameBytes(transport.KindMessage, text), 'y', times, "", "")
	spec := bytes.Replace(child.Spec.Payload, []byte("\xa1\x65width\x19\x02\x80"), text, 1)
	add("a spec", childWelcomed, frameBytes(transport.KindSpec, seal(child.Secret, labelSpec, spec, child.Hello.Body, child.Welcome.Body)), 'y', times, "", "")
	skipped := append(frameBytes(0x80, make([]byte, PreAuthLimit-1)), frameBytes(0x80, nil)...)
	add("65537 bytes of extensions, and a message", inOpen, append(skipped, frameBytes(transport.KindMessage, []byte("\x65hello"))...), 0, PreAuthLimit-1, "", "")
	add("65537 bytes of extensions", peerGreeting, skipped, 0, PreAuthLimit-1, "skipped-too-much", CodeRefused)
	add("65537 bytes of extensions", childAttached, skipped, 0, PreAuthLimit-1, "skipped-too-much", "")
	return f
}

func TestTheLargeVectorsAreTakenOrRefused(t *testing.T) {
	all := makeVectors(t)
	for _, v := range all.Large.Large {
		t.Run(v.Receiver+" "+v.State+" "+v.Name, func(t *testing.T) {
			who := [2]string{v.Receiver, v.State}
			switch who {
			case childAttached:
				return // package forkspawn reads there, and tests it
			case childWelcomed:
				spec, err := openSpec(startMAC(all.Child.Secret, labelSpec, all.Child.Hello.Body, all.Child.Welcome.Body), v.bytes()[5:])
				require.NoError(t, err)
				_, err = spawnspec.Unmarshal(spec)
				require.NoError(t, err)
				return
			}
			said, err := refuse[who](t, all, vectorRefused{Bytes: v.bytes()})
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

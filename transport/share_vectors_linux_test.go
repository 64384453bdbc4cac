package transport_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/slab"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

var update = flag.Bool("update", false, "write testdata/shm.json again")

type (
	sharedVectors struct {
		Comment string          `json:"comment"`
		Frames  []sharedFrame   `json:"frames"`
		Refused []sharedRefused `json:"refused"`
	}
	sharedFrame struct {
		What  string `json:"what"`
		Kind  string `json:"kind"`
		At    uint32 `json:"at"`
		Size  uint32 `json:"size"`
		Frame string `json:"frame"`
	}
	sharedRefused struct {
		What   string `json:"what"`
		Memory int    `json:"memory"`
		Bytes  string `json:"bytes"`
		Error  string `json:"error"`
	}
)

func makeSharedVectors() (v sharedVectors) {
	v.Comment = "Test vectors of docs/PROTOCOL-shm.md; see README.md."
	ref := func(at, size uint32) []byte {
		return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, at), size)
	}
	add := func(what string, kind frame.Kind, at, size uint32) {
		body := ref(at, size)
		if size == 0 {
			body = nil
		}
		v.Frames = append(v.Frames, sharedFrame{what, kind.String(), at, size,
			hex.EncodeToString(frameOf(kind, body...))})
	}
	refuse := func(what string, memory int, name string, all ...[]byte) {
		v.Refused = append(v.Refused, sharedRefused{what, memory,
			hex.EncodeToString(bytes.Join(all, nil)), name})
	}
	add("the memory", frame.KindMemory, 0, 0)
	add("bytes", frame.KindSharedRaw, 64, 65536)
	add("an item", frame.KindSharedMessage, 1<<20, 100_000)
	add("the ring", frame.KindRing, 0, 0)
	add("the last frame on the socket", frame.KindEnter, 0, 0)
	place := func(at, size uint32) []byte { return frameOf(frame.KindSharedRaw, ref(at, size)...) }
	refuse("a place without memory", 0, "malformed", place(0, 1))
	refuse("a place of 7 bytes", hostileSize, "malformed",
		frameOf(frame.KindSharedRaw, make([]byte, 7)...))
	refuse("a place of 9 bytes", hostileSize, "malformed",
		frameOf(frame.KindSharedMessage, make([]byte, 9)...))
	refuse("no bytes", hostileSize, "malformed", place(0, 0))
	refuse("a byte too many", hostileSize, "malformed", place(1, hostileSize))
	refuse("a sum above 32 bits", hostileSize, "malformed", place(1<<32-1, 2))
	refuse("more than the limit", hostileSize, "too-large", place(0, 1<<31))
	refuse("a body of the memory", 0, "malformed", frameOf(frame.KindMemory, 1))
	refuse("a second memory", hostileSize, "malformed", frameOf(frame.KindMemory))
	ring, enter := frameOf(frame.KindRing), frameOf(frame.KindEnter)
	refuse("a body of the ring", 0, "malformed", frameOf(frame.KindRing, 1))
	refuse("a second ring", 0, "malformed", ring, ring)
	refuse("enter without a ring", 0, "malformed", enter)
	refuse("enter without descriptors", hostileSize, "malformed", ring, enter)
	refuse("a body of enter", 0, "malformed", frameOf(frame.KindEnter, 1))
	return v
}

func TestShared_Vectors(t *testing.T) {
	path := filepath.Join(testkit.Root(t), "testdata", "shm.json")
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	require.NoError(t, e.Encode(makeSharedVectors()))
	if *update {
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	}
	assert.Equal(t, testkit.ReadFile(t, path), b.String(), "run this test with -update")
	for _, v := range makeSharedVectors().Frames {
		f, err := hex.DecodeString(v.Frame)
		require.NoError(t, err)
		if body := f[frame.HeaderSize:]; len(body) > 0 {
			assert.Equal(t, slab.Ref{At: v.At, Size: v.Size}, slab.ParseRef(body), v.What)
		}
	}
	for _, v := range makeSharedVectors().Refused {
		t.Run(v.What, func(t *testing.T) {
			x, y := socketPair(t)
			c := open(t, x, transport.Config{})
			frames(c).Share()
			frames(c).UseRing()
			if v.Memory > 0 {
				hostileMemory(t, y)
			}
			_, err := y.Write(testkit.Hex(t, v.Bytes))
			require.NoError(t, err)
			_, err = c.RecvBorrowed(t.Context())
			require.ErrorIs(t, err, transport.ErrProtocol)
			tooLarge := new(*transport.SizeError)
			if v.Error == "too-large" {
				require.ErrorAs(t, err, tooLarge)
			} else {
				require.NotErrorAs(t, err, tooLarge)
			}
		})
	}
}

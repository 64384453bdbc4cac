package handshake

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/transport"
)

func TestProtocolDocumentsExampleIsWhatWeSend(t *testing.T) {
	text, err := os.ReadFile("../docs/PROTOCOL.md")
	require.NoError(t, err)
	doc := strings.Join(strings.Fields(string(text)), "") // its hexadecimal is broken into lines

	_, ticket, ok := strings.Cut(string(text), "of the child with the ticket\n`")
	require.True(t, ok)
	ticket, _, _ = strings.Cut(ticket, "`")
	parsed, err := ParseTicket(ticket)
	require.NoError(t, err)
	h := hello{Versions: Range{Min: 1, Max: 1}, ID: parsed.ID, Name: "child", PID: 4242, Nonce: bytes.Repeat([]byte{0xaa}, 32)}
	payload := h.encode()
	body := seal(parsed.Secret[:], labelHello, payload)
	frame := make([]byte, 5, 5+len(body))
	frame[0], frame[4] = byte(1+len(body)), byte(transport.KindHello)
	frame = append(frame, body...)
	assert.Contains(t, doc, "payload"+hex.EncodeToString(payload)+"input")
	assert.Contains(t, doc, "frame"+hex.EncodeToString(frame)+"`testdata/`")
	assert.Contains(t, doc, "mac"+hex.EncodeToString(mac(parsed.Secret[:], labelHello, payload))+"frame")
}

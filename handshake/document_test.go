package handshake

import (
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/transport"
)

func protocolDocument(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../docs/PROTOCOL.md")
	require.NoError(t, err)
	return string(text)
}

func TestProtocolDocumentsExamplesAreTheVectors(t *testing.T) {
	doc := strings.Join(strings.Fields(protocolDocument(t)), "") // its hexadecimal is broken into lines
	v := makeVectors(t)
	has := func(parts ...any) {
		t.Helper()
		var want strings.Builder
		for _, p := range parts {
			if b, ok := p.(hexa); ok {
				want.WriteString(hex.EncodeToString(b))
			} else {
				want.WriteString(strings.Join(strings.Fields(p.(string)), ""))
			}
		}
		assert.True(t, strings.Contains(doc, want.String()), want.String())
	}
	has(v.Child.Ticket.Value)
	for _, f := range []vectorFrame{v.Child.Hello, v.Child.Welcome, v.Child.Spec, v.Child.Attach} {
		has("payload", f.Payload, "MAC's input", f.MACInput, "MAC", f.MAC, "frame", f.Frame)
	}
	has("frame", v.Child.Ready.Frame)
	has("MAC's input", v.Child.Session.Input, "session key", v.Child.Session.MAC)
	has("cancel", v.Child.Open[4].Frame, "goodbye", v.Child.Open[6].Frame)
	has("key", v.Peers.Key)
	has("frame", v.Peers.DialerGreet.Frame)
	has("frame", v.Peers.AcceptorGreet.Frame)
	for _, f := range []vectorFrame{v.Peers.DialerProof, v.Peers.AcceptorProof} {
		has("MAC's input", f.MACInput, "MAC", f.MAC, "frame", f.Frame)
	}
}

func TestProtocolDocumentHasAllKindsLabelsCodesAndErrors(t *testing.T) {
	doc := protocolDocument(t)
	for k := range transport.KindExtension {
		if name := k.String(); !strings.HasPrefix(name, "kind ") {
			assert.Contains(t, doc, fmt.Sprintf("| 0x%02x | %s |", byte(k), name))
		}
	}
	for _, label := range []string{labelHello, labelWelcome, labelSpec, labelSession, labelAttach, labelDialer, labelAcceptor} {
		assert.Regexp(t, "[`\"]"+label+"[`\"]", doc)
	}
	for _, code := range []string{CodeError, CodeRefused, CodeVersion, CodeUnknownEntry, CodeBadSpec} {
		assert.Contains(t, doc, "| `"+code+"` |")
	}
	_, errors, ok := strings.Cut(doc, "## 9. Errors")
	require.True(t, ok)
	errors, _, _ = strings.Cut(errors, "\n## ")
	named := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(errors, -1) {
		for _, name := range strings.Split(row[1], ", ") {
			named[strings.Trim(name, "`")] = true
		}
	}
	for name := range wireErrors {
		assert.True(t, named[name], "section 9 has no error %s", name)
		delete(named, name)
	}
	assert.Empty(t, named, "section 9 has errors that the vectors have not")
}

package handshake

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

func protocolDocument(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../docs/PROTOCOL.md")
	require.NoError(t, err)
	return string(text)
}

func TestDocument_ExamplesAreTheVectors(t *testing.T) {
	// its hexadecimal is broken into lines
	doc := strings.Join(strings.Fields(protocolDocument(t)), "")
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
	has("MAC's input", v.Child.Hello.MACInput, "MAC", v.Child.Hello.MAC,
		"frame", v.Child.Hello.Frame)
	for _, f := range []vectorFrame{v.Child.Ready, v.Child.Attached} {
		has("frame", f.Frame)
	}
	has("cancel", v.Child.Open[4].Frame, "goodbye", v.Child.Open[6].Frame)
}

func TestDocument_HasAllKindsLabelsCodesAndErrors(t *testing.T) {
	doc := protocolDocument(t)
	kinds := doc + testkit.ReadFile(t, filepath.Join(testkit.Root(t), "docs", "PROTOCOL-call.md")) +
		testkit.ReadFile(t, filepath.Join(testkit.Root(t), "docs", "PROTOCOL-inspect.md")) +
		testkit.ReadFile(t, filepath.Join(testkit.Root(t), "docs", "PROTOCOL-shm.md"))
	for k := range frame.KindExtension {
		if name := k.String(); !strings.HasPrefix(name, "kind ") {
			assert.Contains(t, kinds, fmt.Sprintf("| 0x%02x | %s |", byte(k), name))
		}
	}
	for _, label := range []string{labelHello, labelWelcome, labelSpec, labelSession, labelAttach,
		labelAttached, labelDialer, labelAcceptor} {
		assert.Regexp(t, "[`\"]"+label+"[`\"]", doc)
	}
	for _, code := range []string{codeError, codeRefused, codeVersion,
		codeUnknownEntry, codeBadSpec} {
		assert.Contains(t, doc, "| `"+code+"` |")
	}
	_, errors, ok := strings.Cut(doc, "## 9. Errors")
	require.True(t, ok)
	errors, _, _ = strings.Cut(errors, "\n## ")
	named := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(errors,
		-1) {
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

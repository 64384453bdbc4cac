package handshake

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheMACIsThatOfTheStandardLibrary(t *testing.T) {
	words := make([]byte, 300)
	rand.Read(words)
	for size := range 200 {
		key := make([]byte, size)
		rand.Read(key)
		kept := bytes.Clone(key)
		ours := newHMAC(key)
		theirs := hmac.New(sha256.New, key)
		for cut := 0; cut <= size; cut += 7 {
			ours.inner.Write(words[cut:size])
			theirs.Write(words[cut:size])
		}
		require.Equal(t, theirs.Sum(nil), ours.sum(), "a key of %d bytes", size)
		require.Equal(t, kept, key, "the key itself is its owner's")
	}
}

func BenchmarkMAC(b *testing.B) {
	key, words := make([]byte, 32), make([]byte, 250)
	for b.Loop() {
		mac(key, labelHello, words)
	}
}

package handshake

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// mac proves that whoever made it knows the key and saw the parts. Each part has its length in front,
// so that no two lists of parts give the same input.
func mac(key []byte, label string, parts ...[]byte) []byte {
	return startMAC(key, label, parts...).sum()
}

// startMAC starts a mac of which more parts are to be added. It stands for the key where the rest is free to choose, and is wiped with forget.
func startMAC(key []byte, label string, parts ...[]byte) hmacSHA256 {
	h := newHMAC(key)
	h.inner.Write([]byte(label))
	h.inner.Write([]byte{0})
	for _, p := range parts {
		h.add(p)
	}
	return h
}

func (h hmacSHA256) add(part []byte) {
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(len(part)))
	h.inner.Write(n[:])
	h.inner.Write(part)
}

// hmacSHA256 is HMAC-SHA-256 (RFC 2104) that leaves no key behind: crypto/hmac keeps the key, with constants that everybody
// knows added, where nobody can wipe it. Its tests compare the two.
type hmacSHA256 struct{ inner, outer hash.Hash }

func newHMAC(key []byte) hmacSHA256 {
	pad := make([]byte, sha256.BlockSize)
	defer clear(pad)
	if len(key) > len(pad) {
		short := sha256.Sum256(key)
		defer clear(short[:])
		key = short[:]
	}
	copy(pad, key)
	h := hmacSHA256{sha256.New(), sha256.New()}
	for i := range pad {
		pad[i] ^= 0x36
	}
	h.inner.Write(pad) // a whole block, of which the hash keeps no copy
	for i := range pad {
		pad[i] ^= 0x36 ^ 0x5c
	}
	h.outer.Write(pad)
	return h
}

// forget leaves nothing of what was added, nor of the key.
func (h hmacSHA256) forget() {
	if h.inner == nil {
		return // it was not started
	}
	h.inner.Reset()
	h.outer.Reset()
}

func (h hmacSHA256) sum() []byte {
	h.outer.Write(h.inner.Sum(nil))
	return h.outer.Sum(nil)
}

package handshake

import (
	"fmt"

	"github.com/spawnwire/spawnwire/transport"
)

// ProtocolVersion is the protocol that this package speaks.
const ProtocolVersion = 1

// Range is a range of protocol versions, both ends included. On the wire it is an array of two
// numbers. The zero Range in a Config means the versions of this package.
type Range struct {
	_   struct{} `cbor:",toarray"`
	Min uint
	Max uint
}

func (r Range) String() string { return fmt.Sprintf("%d to %d", r.Min, r.Max) }

func (r Range) orDefault() Range {
	if r == (Range{}) {
		return Range{Min: ProtocolVersion, Max: ProtocolVersion}
	}
	return r
}

func (r Range) valid() bool { return r.Min >= 1 && r.Min <= r.Max }

// common returns the highest version in both ranges.
func (r Range) common(o Range) (uint, bool) {
	v := min(r.Max, o.Max)
	return v, v >= r.Min && v >= o.Min
}

// VersionError says that two peers have no version of the protocol in common.
type VersionError struct{ Ours, Theirs Range }

func (e *VersionError) Error() string {
	return fmt.Sprintf("no common protocol version: this side speaks %s, the peer %s", e.Ours, e.Theirs)
}

// said is what the peer is told, in the words for it.
func (e *VersionError) said(phase Phase) transport.Frame {
	text := fmt.Sprintf("no common protocol version: you speak %s, I speak %s", e.Theirs, e.Ours)
	return FailedError{phase, CodeVersion, text}.frame(&e.Ours)
}

package handshake

import (
	"fmt"

	"github.com/spawnwire/spawnwire/internal/frame"
)

// protocolVersion is the only version of the protocol in this package.
const protocolVersion = 1

// versionRange holds the lowest and the highest version of one side. On the
// wire it is an array of two numbers. Zero means protocolVersion alone.
type versionRange [2]uint

func (r versionRange) String() string { return fmt.Sprintf("%d to %d", r[0], r[1]) }

func (r versionRange) orDefault() versionRange {
	if r == (versionRange{}) {
		return versionRange{protocolVersion, protocolVersion}
	}
	return r
}

func (r versionRange) valid() bool { return r[0] >= 1 && r[0] <= r[1] }

// common returns the highest version in both ranges.
func (r versionRange) common(other versionRange) (uint, bool) {
	v := min(r[1], other[1])
	return v, v >= r[0] && v >= other[0]
}

// VersionError reports that two peers have no version of the protocol in
// common. Each field holds the lowest and the highest version of one side.
type VersionError struct{ Ours, Theirs [2]uint }

func (e *VersionError) Error() string {
	return fmt.Sprintf("no common protocol version: this side speaks %s, the peer %s",
		versionRange(e.Ours), versionRange(e.Theirs))
}

// frame returns the failed frame for the peer.
func (e *VersionError) frame(phase Phase) frame.Frame {
	ours := versionRange(e.Ours)
	text := fmt.Sprintf("no common protocol version: you speak %s, I speak %s",
		versionRange(e.Theirs), ours)
	return failedFrame(failed{phase, codeVersion, text, &ours})
}

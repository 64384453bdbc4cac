//go:build !linux

package link

import "net/netip"

// TCPPeer returns Unknown, because the system cannot tell.
func TCPPeer(_, _ netip.AddrPort) Verdict { return Unknown }

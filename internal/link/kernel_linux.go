package link

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// TCPPeer reports whether the kernel at the other end of a TCP connection answers. The
// connection may belong to another process, such as ssh or sshd. If the kernel at this
// end has repeated data in vain, the other one does not answer. The verdict is Unknown
// if there is no such connection in this network namespace. The source is
// /proc/net/tcp in proc(5).
func TCPPeer(local, remote netip.AddrPort) Verdict {
	if !local.IsValid() || !remote.IsValid() {
		return Unknown
	}
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if v := peerIn(name, unmap(local), unmap(remote)); v != Unknown {
			return v
		}
	}
	return Unknown
}

// minRetries is how often the kernel must have repeated data. The first repetitions
// come after 0.2, 0.6 and 1.4 seconds on a fast network.
const minRetries = 2

// peerIn looks for the connection in a table of the kernel.
func peerIn(table string, local, remote netip.AddrPort) Verdict {
	f, err := os.Open(table)
	if err != nil {
		return Unknown
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// sl local remote state tx_queue:rx_queue timer:when retrnsmt uid probes ...
		field := strings.Fields(lines.Text())
		if len(field) < 9 || parseAddr(field[1]) != local || parseAddr(field[2]) != remote {
			continue
		}
		unacked, _, _ := strings.Cut(field[4], ":")
		retries, _ := strconv.ParseUint(field[6], 16, 32)
		// If the link of this machine is down the kernel probes, as with a zero window.
		// An answer to a probe sets the number back.
		probes, _ := strconv.ParseUint(field[8], 10, 32)
		if max(retries, probes) >= minRetries && strings.Trim(unacked, "0") != "" {
			return Dead
		}
		return Alive
	}
	return Unknown
}

// parseAddr parses an address of the table: words of 32 bits in the order of this
// machine, and the port. It returns the zero AddrPort for anything else.
func parseAddr(s string) netip.AddrPort {
	digits, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(digits)
	n, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n))
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

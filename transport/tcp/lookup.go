package tcp

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// lookup returns the addresses of host, IPv4 first, none of them an IPv4 address in IPv6 clothes.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		// Without /etc/hosts and DNS, which may be missing in a container and could say anything.
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	return arrange(host, ips)
}

// arrange puts what a resolver found into order.
func arrange(host string, ips []netip.Addr) ([]netip.Addr, error) {
	if len(ips) == 0 {
		return nil, &net.DNSError{Err: "no address", Name: host, IsNotFound: true}
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	slices.SortStableFunc(ips, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return ips, nil
}

// splitHostPort takes apart what [transport.ParseAddr] has found to be well-formed.
func splitHostPort(target string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(target)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return host, uint16(n), err
}

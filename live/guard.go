package live

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// refuse returns why a request is refused, or nil.
//
// Browsers say from which site a request comes (Fetch Metadata; Origin in RFC 6454).
// Programs do not, and are no danger: nobody else can make them send a request.
func (h *handler) refuse(r *http.Request) error {
	if !h.knows(r.Host) {
		return fmt.Errorf("live: unknown host %q: use an IP address or localhost, "+
			"or add the name to Config.Hosts", r.Host)
	}
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "", "same-origin", "none":
	default:
		return fmt.Errorf("live: a %s request: enter the address of the page yourself", site)
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		if err != nil || !strings.EqualFold(u.Host, r.Host) {
			return fmt.Errorf("live: a request from %q", origin)
		}
	}
	return nil
}

// knows reports whether a Host header is an IP address, localhost or one of
// Config.Hosts.
func (h *handler) knows(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	_, err := netip.ParseAddr(host)
	return err == nil || strings.EqualFold(host, "localhost") ||
		slices.ContainsFunc(h.cfg.Hosts, func(s string) bool { return strings.EqualFold(s, host) })
}

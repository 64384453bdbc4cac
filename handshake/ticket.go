package handshake

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/spawnwire/spawnwire/transport"
)

// TicketEnv is the environment variable in which a child finds its ticket.
const TicketEnv = "SPAWNWIRE_TICKET"

const ticketVersion = "1"

// Secret is what a child and its parent prove to each other that they know. It is used once. It prints
// as "[secret]" whatever the verb.
type Secret [32]byte

// NewSecret draws a secret from the operating system's generator.
func NewSecret() Secret {
	var s Secret
	rand.Read(s[:]) // never fails; see its documentation
	return s
}

// wipe overwrites the secret; nil is one that was wiped.
func (s *Secret) wipe() {
	if s != nil {
		clear(s[:])
	}
}

// Format prints no secret.
func (s Secret) Format(f fmt.State, _ rune) { f.Write([]byte("[secret]")) }

// LogValue logs no secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText refuses: a secret is not data.
func (s Secret) MarshalText() ([]byte, error) { return nil, errNotData }

// MarshalBinary refuses, as MarshalText does.
func (s Secret) MarshalBinary() ([]byte, error) { return nil, errNotData }

var errNotData = errors.New("handshake: a secret cannot be marshalled")

// NewID draws a unique id: 32 hexadecimal digits.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Ticket is what a parent gives a child at launch, out of band: where to connect, who it is, and
// the secret that proves it.
type Ticket struct {
	Addr   transport.Addr
	ID     string
	Secret Secret
}

// TicketError says why the text of a ticket cannot be used. It never holds the text, which has a secret.
type TicketError struct{ Reason string }

func (e *TicketError) Error() string { return "handshake: " + TicketEnv + ": " + e.Reason }

// Encode returns the ticket as TicketEnv carries it: "1", the id, the secret in hexadecimal and the
// address, with one space between. The result holds the secret.
func (t Ticket) Encode() string { return string(appendTicket(nil, t.ID, &t.Secret, t.Addr)) }

// appendTicket appends a ticket's text, with no other copy of the secret than that.
func appendTicket(b []byte, id string, secret *Secret, addr transport.Addr) []byte {
	at := addr.String()
	b = slices.Grow(b, len(ticketVersion)+len(id)+2*len(secret)+len(at)+3)
	b = append(append(b, ticketVersion+" "...), id...)
	b = hex.AppendEncode(append(b, ' '), secret[:])
	return append(append(b, ' '), at...)
}

// ParseTicket reads what Encode wrote. Its error is a [*TicketError].
func ParseTicket(s string) (Ticket, error) {
	bad := func(reason string) (Ticket, error) { return Ticket{}, &TicketError{reason} }
	fields := strings.SplitN(s, " ", 4) // the address may have spaces
	if fields[0] != ticketVersion {
		return bad("not a ticket of version " + ticketVersion)
	}
	if len(fields) != 4 {
		return bad("want version, id, secret and address")
	}
	t := Ticket{ID: fields[1]}
	if err := checkID(t.ID); err != nil {
		return bad(err.Error())
	}
	secret, err := hex.DecodeString(fields[2])
	if err != nil || len(secret) != len(t.Secret) {
		return bad("the secret is not 64 hexadecimal digits")
	}
	copy(t.Secret[:], secret)
	if t.Addr, err = transport.ParseAddr(fields[3]); err != nil {
		return bad(err.Error())
	}
	if t.Addr.Scheme == transport.SchemeTLS && !t.Addr.IsPinned() {
		return bad("the address " + t.Addr.String() + " pins no certificate; want tls://host:port#, with 64 hexadecimal digits after it")
	}
	return t, nil
}

// TakeTicket reads this process's ticket from its environment and removes it there, so that children
// of its own do not see it; on Linux also from /proc/pid/environ, where other processes of its user would. It reports false when
// there is none: nobody spawned this process, or the ticket was taken already.
func TakeTicket() (Ticket, bool, error) {
	s, ok := os.LookupEnv(TicketEnv)
	if !ok {
		return Ticket{}, false, nil
	}
	os.Unsetenv(TicketEnv)
	eraseEnviron(TicketEnv + "=" + s)
	t, err := ParseTicket(s)
	return t, true, err
}

// maxID and maxName bound what a peer says of itself, in bytes; maxPID is the highest process id.
const (
	maxID   = 64
	maxName = 256
	maxPID  = math.MaxInt32
)

func checkID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("an id of %d bytes, want 1 to %d", len(id), maxID)
	}
	for _, r := range []byte(id) {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("an id with a character that is not printable ASCII, or a space")
		}
	}
	return nil
}

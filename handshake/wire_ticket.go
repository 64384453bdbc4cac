package handshake

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/spawnwire/spawnwire/transport"
)

// TicketEnv is the environment variable that holds a child's ticket, or "file:" and the
// path of a file with it.
const TicketEnv = "SPAWNWIRE_TICKET"

const ticketFile = "file:"

const ticketVersion = "1"

// secret returns a key shared by parent and child. It is a function, because
// fmt has a verb that prints the content of any other type, even in an
// unexported field.
type secret func() []byte

const secretSize = 32

func newSecret(key []byte) secret { return func() []byte { return key } }

func randomSecret() secret {
	key := make([]byte, secretSize)
	rand.Read(key) // never fails, by its documentation
	return newSecret(key)
}

// NewID returns a unique id: 32 hexadecimal digits.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Ticket lets a child connect to its parent. The parent passes it to the child
// when it starts it. It also holds a secret for one handshake. Only Encode
// shows the secret; fmt, log/slog and encoding/json do not.
//
// [Expected.Ticket] and [ParseTicket] make tickets.
type Ticket struct {
	Addr transport.Addr // where the parent listens
	ID   string         // of the child

	secret secret // or nil
}

// Encode returns the ticket as text, for TicketEnv. The text is "1", the id,
// the secret in hexadecimal and the address, separated by single spaces. If the
// ticket has no secret, Encode returns "".
func (t Ticket) Encode() string {
	if t.secret == nil {
		return ""
	}
	return strings.Join([]string{ticketVersion, t.ID,
		hex.EncodeToString(t.secret()), t.Addr.String()}, " ")
}

// ParseTicket parses a text from Encode. Its error matches [ErrBadTicket].
func ParseTicket(s string) (Ticket, error) {
	bad := func(reason string) (Ticket, error) {
		return Ticket{}, fmt.Errorf("handshake: %w in %s: %s", ErrBadTicket, TicketEnv, reason)
	}
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
	key, err := hex.DecodeString(fields[2])
	if err != nil || len(key) != secretSize {
		return bad("the secret is not 64 hexadecimal digits")
	}
	t.secret = newSecret(key)
	if t.Addr, err = transport.ParseAddr(fields[3]); err != nil {
		return bad(err.Error())
	}
	if t.Addr.Scheme == transport.SchemeTLS && !t.Addr.IsPinned() {
		return bad("the address " + t.Addr.String() +
			" pins no certificate; want tls://host:port#, with 64 hexadecimal digits after it")
	}
	return t, nil
}

// TakeTicket returns this process's ticket and removes it from the environment,
// so the process's own children do not inherit it. On Linux it also erases the
// ticket from /proc/pid/environ, because other processes of the user can read
// that file. TakeTicket returns false if there is no ticket, because the
// process was not spawned or has taken its ticket before.
//
// If the variable has the path of a file, TakeTicket reads the ticket from there. It
// does not remove the file.
func TakeTicket() (Ticket, bool, error) {
	s, ok := os.LookupEnv(TicketEnv)
	if !ok {
		return Ticket{}, false, nil
	}
	os.Unsetenv(TicketEnv)
	eraseEnviron(TicketEnv + "=" + s)
	if path, ok := strings.CutPrefix(s, ticketFile); ok {
		text, err := os.ReadFile(path)
		if err != nil {
			return Ticket{}, true,
				fmt.Errorf("handshake: %w in %s: %w", ErrBadTicket, TicketEnv, err)
		}
		s = strings.TrimSuffix(string(text), "\n")
	}
	t, err := ParseTicket(s)
	return t, true, err
}

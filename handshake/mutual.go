package handshake

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// minKey is the least length of a shared key in bytes.
const minKey = 16

// PeerConfig has the settings of a handshake between two programs of which neither spawned the other.
// Exactly one of Key, SameUser and Anonymous says how they know each other; both sides must agree.
type PeerConfig struct {
	// Identity is who this side is; what it leaves open is filled in for this process. The two sides'
	// ids must differ. Give a program that both dials and accepts an ID of its own, the same for
	// both: with one drawn for each handshake, somebody in the middle can connect it with itself.
	Identity Identity
	// Versions are the protocol versions that this side speaks; zero means those of this package.
	Versions Range
	// Key is the shared key, of at least 16 bytes: each side proves by MAC that it knows it.
	Key []byte
	// SameUser lets the kernel's word that both sides run as the same user replace a key. It works on
	// Unix sockets only; see uds.PeerCred.
	SameUser bool
	// Anonymous accepts anybody.
	Anonymous bool
	// Limit is the channel's limit, in bytes, once the peer is known; 0 means transport.DefaultLimit.
	Limit int
	// Timeout bounds the whole handshake; 0 means DefaultHelloTimeout.
	Timeout time.Duration
	// OnCancel is called when the peer asks this side to stop; see transport.Config.
	OnCancel func(transport.Cancel)
}

// check finds what is wrong with the settings, fills in defaults and returns the value of the greet's
// auth field.
func (cfg *PeerConfig) check() (auth string, err error) {
	if auth, err = cfg.auth(); err != nil {
		return "", err
	}
	cfg.Versions = cfg.Versions.orDefault()
	if !cfg.Versions.valid() {
		return "", fmt.Errorf("PeerConfig.Versions: %s is no range", cfg.Versions)
	}
	cfg.Identity = cfg.Identity.orThisProcess()
	if err := cfg.Identity.check(); err != nil {
		return "", fmt.Errorf("PeerConfig.Identity: %w", err)
	}
	if cfg.Timeout < 0 {
		return "", fmt.Errorf("PeerConfig.Timeout: %v is negative", cfg.Timeout)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultHelloTimeout
	}
	return auth, nil
}

// The values of a greet's auth field.
const (
	authKey      = "key"
	authSameUser = "same-user"
	authNone     = "none"
)

func (cfg PeerConfig) auth() (string, error) {
	chosen := ""
	for _, o := range []struct {
		set  bool
		name string
	}{{cfg.Key != nil, authKey}, {cfg.SameUser, authSameUser}, {cfg.Anonymous, authNone}} {
		switch {
		case o.set && chosen != "":
			return "", errors.New("PeerConfig: more than one of Key, SameUser and Anonymous is set")
		case o.set:
			chosen = o.name
		}
	}
	switch {
	case chosen == "":
		return "", errors.New("PeerConfig: none of Key, SameUser and Anonymous is set")
	case chosen == authKey && len(cfg.Key) < minKey:
		return "", fmt.Errorf("PeerConfig.Key: %d bytes, want at least %d", len(cfg.Key), minKey)
	}
	return chosen, nil
}

// ConnectPeer makes the dialing side's handshake over conn, which it takes over: on an error conn is
// closed. It returns when both sides are proved to each other, or when ctx ends. Its errors are
// [*Error]s with [ErrBadMAC], [*VersionError], [*FailedError], [ErrForeignUser], transport's or the
// context's error in them.
func ConnectPeer(ctx context.Context, conn net.Conn, cfg PeerConfig) (*Peer, error) {
	return meet(ctx, conn, cfg, true)
}

// AcceptPeer makes the accepting side's handshake; otherwise it is as ConnectPeer.
func AcceptPeer(ctx context.Context, conn net.Conn, cfg PeerConfig) (*Peer, error) {
	return meet(ctx, conn, cfg, false)
}

func meet(ctx context.Context, conn net.Conn, cfg PeerConfig, dialer bool) (*Peer, error) {
	auth, err := cfg.check()
	if err != nil {
		conn.Close()
		return nil, &Error{PhaseHello, err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Timeout, errHelloTimeout)
	defer cancel()
	if err := transport.Secure(ctx, conn); err != nil {
		return nil, &Error{PhaseConnect, err}
	}
	ch := transport.New(conn, transport.Config{Limit: PreAuthLimit, OnCancel: cfg.OnCancel})
	m := &meeting{ch: ch, cfg: cfg, auth: auth, dialer: dialer}
	peer, phase, err := m.run(ctx)
	if err != nil {
		m.giveUp(ctx, phase, err)
		return nil, &Error{phase, err}
	}
	return peer, nil
}

// meeting is one handshake between peers.
type meeting struct {
	ch     *transport.Channel
	cfg    PeerConfig
	auth   string
	dialer bool
}

func (m *meeting) run(ctx context.Context) (*Peer, Phase, error) {
	me := m.cfg.Identity
	ours := greet{Versions: m.cfg.Versions, ID: me.ID, Name: me.Name, PID: me.PID, Nonce: newNonce(), Auth: m.auth}.encode()
	theirs, err := m.exchange(ctx, transport.KindGreet, ours, PhaseHello)
	if err != nil {
		return nil, PhaseHello, err
	}
	var g greet
	if err := decode(transport.KindGreet, theirs, &g); err != nil {
		return nil, PhaseHello, err
	}
	if err := g.check(); err != nil {
		return nil, PhaseHello, err
	}
	if g.ID == me.ID {
		return nil, PhaseAuth, fmt.Errorf("%w: the peer has this side's own id", transport.ErrProtocol)
	}
	if g.Auth != m.auth {
		return nil, PhaseAuth, fmt.Errorf("the peer wants authentication by %.*q, this side by %q", maxID, g.Auth, m.auth)
	}
	version, ok := m.cfg.Versions.common(g.Versions)
	if !ok {
		return nil, PhaseAuth, &VersionError{Ours: m.cfg.Versions, Theirs: g.Versions}
	}
	if m.auth == authSameUser {
		if err := sameUser(m.ch.NetConn()); err != nil {
			return nil, PhaseAuth, err
		}
	}
	if err := m.prove(ctx, ours, theirs); err != nil {
		return nil, PhaseAuth, err
	}
	m.ch.SetLimit(m.cfg.Limit)
	return &Peer{Channel: m.ch, Identity: Identity{g.ID, g.Name, g.PID}, Version: version}, "", nil
}

// prove exchanges proofs of the key. Each covers both greets, dialer's first, and has its own label,
// so that no side's proof can be sent back to it as the other's.
func (m *meeting) prove(ctx context.Context, ours, theirs []byte) error {
	var mine, want []byte
	if m.auth == authKey {
		dialer := func(d, a []byte) []byte { return mac(m.cfg.Key, labelDialer, d, a) }
		acceptor := func(d, a []byte) []byte { return mac(m.cfg.Key, labelAcceptor, d, a) }
		if m.dialer {
			mine, want = dialer(ours, theirs), acceptor(ours, theirs)
		} else {
			mine, want = acceptor(theirs, ours), dialer(theirs, ours)
		}
	}
	body, err := m.exchange(ctx, transport.KindProof, encodeProof(mine), PhaseAuth)
	if err != nil {
		return err
	}
	var got byteString
	if err := decode(transport.KindProof, body, &got); err != nil {
		return err
	}
	if m.auth == authKey && !hmac.Equal(got, want) {
		return ErrBadMAC
	}
	return nil
}

// exchange sends a frame and receives the peer's of the same kind, both at once, as neither side waits
// for the other and a connection need not have a buffer.
func (m *meeting) exchange(ctx context.Context, kind transport.Kind, body []byte, phase Phase) ([]byte, error) {
	sent := make(chan error, 1)
	go func() { sent <- m.ch.WriteFrames(ctx, transport.Frame{Kind: kind, Body: body}) }()
	theirs, err := expectFrame(ctx, m.ch.ReadFrame, kind, m.cfg.Versions, phase)
	if err != nil {
		m.unblock(err, sent)
		return nil, err
	}
	return theirs, <-sent
}

// unblock waits for the sender after the receiver failed, but not long for a peer that does not read.
func (m *meeting) unblock(err error, sent chan error) {
	patience := farewell
	if errors.Is(err, transport.ErrPeerGone) {
		patience = 0
	}
	defer time.AfterFunc(patience, func() { m.ch.Abort() }).Stop()
	<-sent
}

// giveUp tells the peer why, as far as it is good for it to know, and closes. It does not wait long: over
// a connection with no buffer two sides that give up at once would wait for each other.
func (m *meeting) giveUp(ctx context.Context, phase Phase, err error) {
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	var ver *VersionError
	var said *FailedError
	switch {
	case errors.As(err, &ver):
		m.ch.WriteFrames(ctx, ver.said(phase))
	case errors.As(err, &said), errors.Is(err, transport.ErrPeerGone), ctx.Err() != nil:
		m.ch.Abort()
		return
	default:
		m.ch.WriteFrames(ctx, refusal(phase))
	}
	m.ch.CloseWith(ctx, 1, "")
}

func sameUser(conn net.Conn) error {
	cred, err := uds.PeerCred(conn)
	if err != nil {
		return fmt.Errorf("SameUser: %w", err)
	}
	return checkUser(cred)
}

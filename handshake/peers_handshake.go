package handshake

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// minKey is the least length of a shared key in bytes.
const minKey = 16

// PeerConfig has the settings of a handshake between two programs, neither of
// which spawned the other. Exactly one of Key, SameUser and Anonymous must be
// set, the same on both sides.
type PeerConfig struct {
	// Identity is how this side presents itself. Empty fields are filled in for
	// this process. The ids of the two sides must differ. A program that both
	// dials and accepts should set one ID for all its handshakes: otherwise an
	// attacker between two connections can connect the program to itself.
	Identity Identity
	// Key is the shared key, of at least 16 bytes. Each side proves by MAC that
	// it knows the key.
	Key []byte
	// SameUser accepts a peer if the kernel reports that it runs as the same
	// user. It works on Unix sockets only; see uds.PeerCred.
	SameUser bool
	// Anonymous accepts any peer.
	Anonymous bool
	// MaxFrameSize is the channel's limit, in bytes, once the peer is known. 0 means
	// transport.DefaultMaxFrameSize.
	MaxFrameSize int
	// Ring lets all messages travel through a ring in shared memory, if the peer asks
	// for it too; see [transport.Channel.UsesRing].
	Ring bool
	// Timeout bounds the whole handshake. 0 means 10 seconds.
	Timeout time.Duration
	// OnCancel is called when the peer asks this side to stop. It runs in the
	// goroutine that receives, so it must not block or receive. Nil ignores such
	// requests.
	OnCancel func(Cancel)

	// MaxPending and Logger are for ServePeers; see ListenerConfig.
	MaxPending int
	Logger     *slog.Logger

	versions versionRange // zero means protocolVersion alone; set by tests
}

// check fills in defaults and returns the value of the greet's auth field.
func (cfg *PeerConfig) check() (auth string, err error) {
	if auth, err = cfg.auth(); err != nil {
		return "", err
	}
	cfg.versions = cfg.versions.orDefault()
	cfg.Identity = thisProcess(cfg.Identity)
	if err := checkIdentity(cfg.Identity); err != nil {
		return "", fmt.Errorf("PeerConfig.Identity: %w", err)
	}
	if cfg.Timeout < 0 {
		return "", fmt.Errorf("PeerConfig.Timeout: %v is negative", cfg.Timeout)
	}
	if cfg.MaxPending < 0 {
		return "", fmt.Errorf("PeerConfig.MaxPending: %d is negative", cfg.MaxPending)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = access.DefaultHelloTimeout
	}
	return auth, nil
}

// The values of a greet's auth field.
const (
	authKey      = "key"
	authSameUser = "same-user"
	authNone     = "none"
)

func (cfg *PeerConfig) auth() (string, error) {
	chosen := ""
	for _, option := range []struct {
		set  bool
		name string
	}{{cfg.Key != nil, authKey}, {cfg.SameUser, authSameUser}, {cfg.Anonymous, authNone}} {
		switch {
		case option.set && chosen != "":
			return "", errors.New("PeerConfig: more than one of Key, SameUser and Anonymous is set")
		case option.set:
			chosen = option.name
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

// ConnectPeer makes the dialing side's handshake over conn. It returns when each
// side has proved itself to the other, or when ctx ends.
//
// ConnectPeer takes conn over: on an error conn is closed. The error is an
// [*Error] that wraps [ErrBadMAC], [ErrForeignUser], a [*VersionError], a
// [*FailedError], an error of package transport or the context's error.
func ConnectPeer(ctx context.Context, conn net.Conn, cfg PeerConfig) (*Peer, error) {
	return meet(ctx, conn, cfg, true)
}

// AcceptPeer makes the accepting side's handshake. Otherwise it is like
// [ConnectPeer].
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
	if err := network.Secure(ctx, conn); err != nil {
		return nil, &Error{PhaseConnect, err}
	}
	ch := newChannel(conn, cfg.OnCancel)
	m := &meeting{ch: ch, cfg: cfg, auth: auth, dialer: dialer}
	peer, phase, err := m.run(ctx)
	if err != nil {
		m.reject(ctx, phase, err)
		return nil, &Error{phase, err}
	}
	return peer, nil
}

// meeting is one handshake between peers.
type meeting struct {
	ch     *transport.Channel
	cfg    PeerConfig // with its defaults
	auth   string
	dialer bool
}

// run returns a phase and an error if the handshake fails.
func (m *meeting) run(ctx context.Context) (*Peer, Phase, error) {
	canShare := frames(m.ch).CanShare()
	me := self{Identity: m.cfg.Identity, nonce: newNonce(),
		features: features(false, false, canShare, canShare && m.cfg.Ring)}
	ours := greet{m.cfg.versions, me, m.auth}.encode()
	theirs, err := m.exchange(ctx, frame.KindGreet, ours, PhaseHello)
	if err != nil {
		return nil, PhaseHello, err
	}
	g, err := decodeGreet(theirs)
	if err != nil {
		return nil, PhaseHello, err
	}
	if g.ID == me.ID {
		return nil, PhaseAuth,
			fmt.Errorf("%w: the peer has this side's own id", transport.ErrProtocol)
	}
	if g.auth != m.auth {
		return nil, PhaseAuth,
			fmt.Errorf("the peer wants authentication by %.*q, this side by %q", maxID, g.auth,
				m.auth)
	}
	if _, ok := m.cfg.versions.common(g.versions); !ok {
		return nil, PhaseAuth, &VersionError{Ours: m.cfg.versions, Theirs: g.versions}
	}
	if m.auth == authSameUser {
		if err := sameUser(m.ch.NetConn()); err != nil {
			return nil, PhaseAuth, err
		}
	}
	// before the proof, after which the peer may use what both name
	share(m.ch, slices.DeleteFunc(g.features, func(theirs string) bool {
		return !slices.Contains(me.features, theirs)
	}))
	if err := m.prove(ctx, ours, theirs); err != nil {
		return nil, PhaseAuth, err
	}
	frames(m.ch).SetMaxSize(m.cfg.MaxFrameSize)
	return &Peer{Channel: m.ch, Identity: g.Identity}, "", nil
}

// prove exchanges proofs of the key. Each covers both greets, the dialer's first,
// and has a label of its own, so that no proof can be sent back as the other
// side's.
func (m *meeting) prove(ctx context.Context, ours, theirs []byte) error {
	var mine, want []byte
	switch {
	case m.auth != authKey:
	case m.dialer:
		mine = mac(m.cfg.Key, labelDialer, ours, theirs)
		want = mac(m.cfg.Key, labelAcceptor, ours, theirs)
	default:
		mine = mac(m.cfg.Key, labelAcceptor, theirs, ours)
		want = mac(m.cfg.Key, labelDialer, theirs, ours)
	}
	body, err := m.exchange(ctx, frame.KindProof, encodeProof(mine), PhaseAuth)
	if err != nil {
		return err
	}
	got, err := decodeProof(body)
	if err != nil {
		return err
	}
	if m.auth == authKey && !hmac.Equal(got, want) {
		return ErrBadMAC
	}
	return nil
}

// exchange sends a frame and receives the peer's of the same kind. It does both
// at once, because both sides send first, and a connection need not have a
// buffer.
func (m *meeting) exchange(
	ctx context.Context, kind frame.Kind, body []byte, phase Phase,
) ([]byte, error) {
	sent := make(chan error, 1)
	go func() { sent <- frames(m.ch).Write(ctx, frame.Frame{Kind: kind, Body: body}) }()
	theirs, err := expectFrame(ctx, m.ch, kind, m.cfg.versions, phase)
	if err != nil {
		m.awaitSender(err, sent)
		return nil, err
	}
	return theirs, <-sent
}

// awaitSender waits for the sender after the receiver has failed. A peer may not
// read: the wait is short.
func (m *meeting) awaitSender(err error, sent chan error) {
	patience := farewellBound
	if errors.Is(err, transport.ErrPeerGone) {
		patience = 0
	}
	defer time.AfterFunc(patience, func() { m.ch.Abort() }).Stop()
	<-sent
}

// reject reports to the peer why the handshake failed, as far as an
// unauthenticated peer may know, and closes. It is bounded, because without a
// buffer two sides that reject each other would block.
func (m *meeting) reject(ctx context.Context, phase Phase, err error) {
	ctx, cancel := context.WithTimeout(ctx, farewellBound)
	defer cancel()
	var version *VersionError
	var answered *gaveUpError
	switch {
	case errors.As(err, &answered), errors.Is(err, transport.ErrPeerGone), ctx.Err() != nil:
		m.ch.Abort()
		return
	case errors.As(err, &version):
		frames(m.ch).Write(ctx, version.frame(phase))
	default:
		frames(m.ch).Write(ctx, refusal(phase))
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

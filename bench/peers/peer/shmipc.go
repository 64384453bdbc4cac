package peer

import (
	"context"
	"errors"

	"github.com/cloudwego/shmipc-go"
)

// shmipcPeer is CloudWeGo's shmipc-go over a Unix socket: with one session, memfds, and
// the defaults for memory and queue, as in its example of best practice. It has no flow
// control for a stream of messages: a full queue is an error after 100 ms. So it has
// round trips only.
type shmipcPeer struct{}

// shmipcSilent is its level without log output.
const shmipcSilent = 5

func (shmipcPeer) Name() string      { return "shmipc" }
func (shmipcPeer) Module() string    { return "github.com/cloudwego/shmipc-go" }
func (shmipcPeer) Does(job Job) bool { return job.Network == "unix" && job.Work == RoundTrip }

func (p shmipcPeer) Open(ctx context.Context, job Job) (Worker, error) {
	shmipc.SetLogLevel(shmipcSilent) // it calls the end of the other process an error
	s, err := start(ctx, p, job)
	if err != nil {
		return nil, err
	}
	cfg := shmipc.DefaultSessionManagerConfig()
	cfg.Network, cfg.Address = "unix", s.addr
	cfg.MemMapType = shmipc.MemMapTypeMemFd
	cfg.SessionNum = 1
	manager, err := shmipc.NewSessionManager(cfg)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	st, err := manager.GetStream()
	if err != nil {
		return nil, errors.Join(err, manager.Close(), s.Close())
	}
	return &roundTrips{size: job.Size, close: closer(manager, s),
		trip: func(payload []byte) ([]byte, error) {
			st.BufferReader().ReleasePreviousRead()
			if err := sendShmipc(st, payload); err != nil {
				return nil, err
			}
			return st.BufferReader().ReadBytes(job.Size)
		}}, nil
}

func sendShmipc(st *shmipc.Stream, payload []byte) error {
	if _, err := st.BufferWriter().WriteBytes(payload); err != nil {
		return err
	}
	return st.Flush(false)
}

func (shmipcPeer) Serve(job Job, ready Ready) error {
	conn, err := ready.Accept(job)
	if err != nil {
		return err
	}
	cfg := shmipc.DefaultConfig()
	cfg.MemMapType = shmipc.MemMapTypeMemFd
	session, err := shmipc.Server(conn, cfg)
	if err != nil {
		return err
	}
	defer session.Close()
	st, err := session.AcceptStream()
	if err != nil {
		return err
	}
	for { // until the process is killed
		p, err := st.BufferReader().ReadBytes(job.Size)
		if err != nil {
			return err
		}
		if err := sendShmipc(st, p); err != nil {
			return err
		}
		st.BufferReader().ReleasePreviousRead()
	}
}

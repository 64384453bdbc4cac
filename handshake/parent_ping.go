package handshake

import (
	"context"
	"sync"

	"github.com/spawnwire/spawnwire/internal/access"
)

// Internal returns methods for this module only. See package internal/access.
func (p *Peer) Internal(access.Key) peerInternals { return peerInternals{p} }

// peerInternals are the methods of a Peer for package forkspawn.
type peerInternals struct{ p *Peer }

// Silent waits until the child answers a ping over its control connection, or until
// ctx ends. Then it returns true, also if the connection is still to come. At the
// end of ctx it returns false for a child without such a connection, or with one
// that was closed.
func (i peerInternals) Silent(ctx context.Context) bool {
	p := i.p
	p.mu.Lock()
	control := p.control
	p.mu.Unlock()
	if control == nil {
		<-ctx.Done()
		return p.attached != nil
	}
	// A receive handles the pong. Nothing else comes from a child but its goodbye.
	receiving, stop := context.WithCancel(ctx)
	var receiver sync.WaitGroup
	receiver.Go(func() { control.RecvBytes(receiving, nil) })
	_, err := control.Ping(ctx)
	stop()
	receiver.Wait()
	if err != nil && ctx.Err() == nil {
		<-ctx.Done()
		return false
	}
	return err != nil
}

package forkspawn

import (
	"context"
	"errors"
)

// Ready tells the parent that this child is ready, and so ends its Spawn. The parent
// gets value from [Child.ReadyValue], unless it is nil. Ready is for a child with
// [JoinConfig.ReadyLater] or [RegisterReadyLater], which prepares itself first. It
// may, for example, open a port and send the address.
//
// Before Ready the child must not use its channel. If the child ends before, the
// parent's Spawn returns a [*BootError] of phase ready. Its cause has the error of
// the entry, or of [Parent.Exit], or the reason of [Parent.Close]. Config.BootTimeout
// of the parent bounds the preparation.
//
// If value cannot be encoded, Ready returns an error and may be called again. After
// any other error the child should end. A second call after success is an error.
func (p *Parent) Ready(ctx context.Context, value any) error {
	if err := p.sayReady(ctx, value); err != nil {
		return prefixed("ready", err)
	}
	return nil
}

var errReadyAlready = errors.New("the child has said before that it is ready")

// sayReady is Ready without the prefix of its error.
func (p *Parent) sayReady(ctx context.Context, value any) error {
	if !p.isUnready() {
		return errReadyAlready
	}
	if err := p.joined.Ready(ctx, value); err != nil {
		p.unready <- struct{}{}
		return err
	}
	p.beginControl()
	return nil
}

// isUnready reports whether the child had to say that it is ready, or has failed. It
// returns true once; the caller then says it.
func (p *Parent) isUnready() bool {
	select {
	case <-p.unready:
		return true
	default:
		return false
	}
}

// awaitReady watches the parent's death until the child has said that it is ready.
func (p *Parent) awaitReady() {
	for len(p.unready) > 0 && p.stays(endInterval) {
	}
}

package forkspawn

import (
	"context"
	"errors"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

// The pause of attachPatiently doubles from one to the other.
const (
	minAttachPause = 50 * time.Millisecond
	maxAttachPause = 2 * time.Second
)

// attachPatiently opens the child's control connection, and tries again as long as this process has
// no descriptor for it, or the parent cuts it before TLS is set up, as it does with the oldest when there are too many: of a
// parent that is gone another try finds nobody who listens. The message channel tells most of what it would, meanwhile.
func (p *Parent) attachPatiently() (*transport.Channel, error) {
	for pause := minAttachPause; ; pause = min(2*pause, maxAttachPause) {
		conn, err := p.dial(p.attaching)
		if err == nil {
			return p.joined.AttachControl(p.attaching, conn)
		}
		var scarce *ResourceError
		cut := p.addr.Scheme == transport.SchemeTLS && errors.Is(err, transport.ErrPeerGone)
		if !cut && !errors.As(err, &scarce) {
			return nil, err
		}
		if awaitClosed(context.Background(), p.open.Done(), pause) {
			return nil, err
		}
	}
}

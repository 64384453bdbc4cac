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
// no descriptor for it. The message channel tells most of what it would, meanwhile.
func (p *Parent) attachPatiently() (*transport.Channel, error) {
	for pause := minAttachPause; ; pause = min(2*pause, maxAttachPause) {
		ch, err := p.attach(p.attaching)
		var scarce *ResourceError
		if !errors.As(err, &scarce) {
			return ch, err
		}
		if awaitClosed(context.Background(), p.open.Done(), pause) {
			return nil, err
		}
	}
}

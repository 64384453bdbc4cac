//go:build unix

package roles

import (
	"context"
	"os"
	"strconv"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

// StarveEnv is the environment variable with the number of descriptors that a
// child can still open when it starts.
const StarveEnv = "SPAWNWIRE_TEST_FREE"

// relieve makes descriptors available again. It is nil unless StarveEnv is set.
var relieve = func() func() {
	free, err := strconv.Atoi(os.Getenv(StarveEnv))
	if err != nil {
		return nil
	}
	return testkit.ExhaustDescriptors(free)
}()

// startsStarved makes descriptors available when it has received a message,
// and then only waits.
func startsStarved(ctx context.Context, p *forkspawn.Parent) error {
	var v string
	if err := p.Recv(ctx, &v); err != nil {
		return err
	}
	relieve()
	<-ctx.Done()
	return ctx.Err()
}

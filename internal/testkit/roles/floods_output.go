//go:build unix

package roles

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// Flooded is how many bytes floods-output writes to each of stdout and stderr,
// in one line of x.
const Flooded = 160 << 16

// floodsOutput fills stdout and stderr, and then sends a message.
func floodsOutput(ctx context.Context, p *forkspawn.Parent) error {
	chunk := strings.Repeat("x", 1<<16)
	for range Flooded / len(chunk) {
		io.WriteString(os.Stdout, chunk)
		io.WriteString(os.Stderr, chunk)
	}
	fmt.Fprintln(os.Stderr, "\nthe last line")
	return p.Send(ctx, "done")
}

//go:build unix

package roles

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// Printed is how many bytes prints writes to stdout at first. It is less than
// the library keeps for a slow writer.
const Printed = 512 << 10

// prints writes Printed bytes to stdout, and a line more when it has received
// a message.
func prints(ctx context.Context, p *forkspawn.Parent) error {
	io.WriteString(os.Stdout, strings.Repeat("z", Printed))
	var v string
	if err := p.Recv(ctx, &v); err != nil {
		return err
	}
	io.WriteString(os.Stdout, "one more line\n")
	return nil
}

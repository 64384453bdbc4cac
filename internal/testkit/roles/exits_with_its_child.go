//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// exitsWithItsChild exits at once, as log.Fatal does, when its child has died
// with 300 lines on stderr.
func exitsWithItsChild(ctx context.Context) error {
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	command := forkspawn.Command{Path: "sh",
		Args: []string{"-c", "seq -f 'word %g' 300 >&2; exit 3"}}
	_, err = s.Spawn(ctx, spawnspec.Spec{Name: "dies"}, forkspawn.WithCommand(command))
	fmt.Println("failed:", err)
	os.Exit(1)
	return nil
}

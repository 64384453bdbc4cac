//go:build unix

package roles

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/transport"
)

// ListenEnv is the environment variable with the address of listens.
const ListenEnv = "SPAWNWIRE_TEST_LISTEN"

// listens has a Spawner, prints its address, and spawns nothing. The end of
// its stdin ends it.
func listens(context.Context) error {
	var listen transport.Addr
	if text := os.Getenv(ListenEnv); text != "" {
		if err := listen.UnmarshalText([]byte(text)); err != nil {
			return err
		}
	}
	s, err := forkspawn.New(forkspawn.Config{Listen: listen})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println(s.Addr())
	io.Copy(io.Discard, os.Stdin)
	return nil
}

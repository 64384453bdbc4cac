//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// needsTerminal spawns programs and prints the errors. They need the terminal before
// they are ready, as ssh does for a password.
func needsTerminal(ctx context.Context) error {
	os.Unsetenv(testkit.RoleEnv)
	s, err := forkspawn.New(forkspawn.Config{BootTimeout: testkit.Patience})
	if err != nil {
		return err
	}
	defer s.Close()
	const asks = "stty -echo </dev/tty"
	for _, c := range []struct {
		name, script string
		session      bool
	}{
		{"in the background", "exec " + asks, false},
		{"below a shell", asks + "; exit 3", false},
		{"own session", "exec " + asks, true},
	} {
		command := forkspawn.Command{
			Path: "sh", Args: []string{"-c", c.script}, NewSession: c.session,
		}
		_, err := s.Spawn(ctx, spawnspec.Spec{Name: "asks"}, forkspawn.WithCommand(command))
		fmt.Println(c.name+":", err)
	}
	return nil
}

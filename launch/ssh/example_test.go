package ssh_test

import (
	"context"
	"fmt"
	"log"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/launch/ssh"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// The program calls forkspawn.Register and forkspawn.Init first, as with children on its
// own machine.
func Example() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	host := &ssh.Host{Name: "build1"} // as in: ssh build1
	child, err := spawner.Spawn(context.Background(), spawnspec.Spec{Entry: "upper"},
		forkspawn.WithCommand(forkspawn.Command{Launcher: host}))
	if err != nil {
		log.Fatal(err) // an *ssh.Error in it says what the host lacks
	}
	fmt.Println(child.Stop(context.Background()))
}

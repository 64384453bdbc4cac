package oci_test

import (
	"context"
	"fmt"
	"log"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/launch/oci"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// The program calls forkspawn.Register and forkspawn.Init first, as with children outside
// of containers.
func Example() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	box := &oci.Launcher{Image: "debian:12",
		Options: []string{"--memory=512m", "--network=none"}}
	child, err := spawner.Spawn(context.Background(), spawnspec.Spec{Entry: "upper"},
		forkspawn.WithCommand(forkspawn.Command{Launcher: box}))
	if err != nil {
		log.Fatal(err) // an *oci.Error in it has the engine's words
	}
	fmt.Println(child.Stop(context.Background()))
}

package slurm_test

import (
	"context"
	"fmt"
	"log"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/launch/slurm"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// The program calls forkspawn.Register and forkspawn.Init first, as with children of this
// machine.
func Example() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	nodes := &slurm.Launcher{Options: []string{"--partition=short", "--mem=2G"}}
	child, err := spawner.Spawn(context.Background(), spawnspec.Spec{Entry: "upper"},
		forkspawn.WithCommand(forkspawn.Command{Launcher: nodes}))
	if err != nil {
		log.Fatal(err) // a *slurm.Error in it has srun's words
	}
	fmt.Println(child.Stop(context.Background()))
}

// One job has the resources of 64 children, so they wait in the queue together.
func ExampleAllocate() {
	ctx := context.Background()
	all, err := slurm.Allocate(ctx, "--ntasks=64", "--mem-per-cpu=2G")
	if err != nil {
		log.Fatal(err) // ctx has ended in the queue, or Slurm has refused the job
	}
	defer all.Close()
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	group, err := spawner.NewGroup(ctx, forkspawn.GroupConfig{})
	if err != nil {
		log.Fatal(err)
	}
	there := forkspawn.WithCommand(forkspawn.Command{
		Launcher: &slurm.Launcher{Allocation: all}})
	for range 64 {
		err := group.Go(spawnspec.Spec{Entry: "upper"}, work, there)
		if err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(group.Wait())
}

// work works with one child.
func work(ctx context.Context, child *forkspawn.Child) error {
	if err := child.Send(ctx, "text"); err != nil {
		return err
	}
	return child.Recv(ctx, new(string))
}

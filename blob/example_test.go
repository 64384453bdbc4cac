//go:build unix

package blob_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/spawnwire/spawnwire/blob"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// In a real program: forkspawn.Register("answer", answer) in main.
var answer = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	file, err := parent.File("table")
	if err != nil {
		return err
	}
	table, err := blob.Open(file)
	if err != nil {
		return err
	}
	defer table.Close()
	return parent.Send(ctx, len(table.Bytes()))
})

// All children use the one table.
func Example() {
	table, err := blob.Build("table", 10<<20, func(b []byte) error {
		b[0] = 1 // a real program reads or computes it here
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	defer table.Close()

	spawner, err := forkspawn.New(forkspawn.Config{Command: forkspawn.Command{
		Files: map[string]*os.File{"table": table.File()}}})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	for range 2 {
		child, err := spawner.Spawn(context.Background(), spawnspec.Spec{Entry: answer})
		if err != nil {
			log.Fatal(err)
		}
		var size int
		if err := child.Recv(context.Background(), &size); err != nil {
			log.Fatal(err)
		}
		fmt.Println(size, "bytes")
	}
	// Output:
	// 10485760 bytes
	// 10485760 bytes
}

//go:build (amd64 || arm64) && !portable

package forkspawn_test

import (
	"context"
	"fmt"
	"io"
	"log"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// A program begins with few descriptors, no core dump, private files and a low priority.
func ExampleSysAttr() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	cmd := forkspawn.Command{
		Path: "sh", Args: []string{"-c", "ulimit -n; ulimit -c; umask; grep NoNewPrivs /proc/self/status"},
		Sys: &forkspawn.SysAttr{
			Limits: map[string]forkspawn.Limit{
				"RLIMIT_NOFILE": {Soft: 64, Hard: 64}, "RLIMIT_CORE": {Soft: 0, Hard: 0},
			},
			Umask: new(0o077), Nice: new(19), NoNewPrivileges: true,
		},
	}
	child, err := spawner.Start(context.Background(), cmd, forkspawn.WithStdout(forkspawn.Pipe()))
	if err != nil {
		log.Fatal(err) // it names the setting that failed
	}
	out, err := io.ReadAll(child.Stdout())
	fmt.Printf("%s%v", out, err)
	// Output:
	// 64
	// 0
	// 0077
	// NoNewPrivs:	1
	// <nil>
}

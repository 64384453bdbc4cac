// Goplugin is a child of go-plugin. Its argument is the mode.
package main

import (
	"os"
	"time"

	"github.com/spawnwire/spawnwire/bench/peers/spawn/plugged"
)

func main() {
	began := time.Now()
	plugged.Serve(os.Args[1], began)
}

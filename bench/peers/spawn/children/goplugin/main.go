// Command goplugin is a child of go-plugin, in the mode that its argument names, with nothing else linked.
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

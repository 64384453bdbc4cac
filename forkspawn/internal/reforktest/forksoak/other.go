//go:build !(linux && (amd64 || arm64))

package main

import (
	"fmt"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
)

func main() {
	_, err := refork.Prepare()
	fmt.Fprintln(os.Stderr, "forksoak:", err)
	os.Exit(1)
}

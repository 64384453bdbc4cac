//go:build linux && (amd64 || arm64)

package main

import (
	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork/selftest"
)

func init() {
	scenarios["self-test"] = selfTest
}

func selfTest(f *refork.Forker) error {
	if err := selftest.Run(f); err != nil {
		return err
	}
	return healthy(f)
}

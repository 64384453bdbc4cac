//go:build linux && amd64

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/refork/selftest"
)

func init() {
	scenarios["self-test"] = selfTest
}

func selfTest(f *refork.Forker) error {
	if err := selftest.Run(context.Background(), f); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := selftest.Run(ctx, f); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("with a millisecond for it: %v", err)
	}
	if time.Since(start) > time.Minute {
		return fmt.Errorf("it took %v to give up", time.Since(start))
	}
	return healthy(f)
}

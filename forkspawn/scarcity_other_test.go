//go:build unix && !linux

package forkspawn_test

import "testing"

// mainAlone does nothing, because the tests of scarcity are for Linux.
func mainAlone(*testing.M) {}

//go:build !linux

// Package reaper ends orphans of the children in other sessions and process groups.
package reaper

import (
	"errors"
	"fmt"
)

// Reaper is not available here.
type Reaper struct{}

// New returns an error that matches errors.ErrUnsupported.
func New(string) (*Reaper, error) {
	return nil, fmt.Errorf("Config.Subreaper: this platform has none: %w", errors.ErrUnsupported)
}

// Mark returns env.
func (*Reaper) Mark(_ string, env []string) []string { return env }

// Start calls start.
func (*Reaper) Start(start func() (int, error)) error {
	_, err := start()
	return err
}

// Ended does nothing.
func (*Reaper) Ended(int, string) {}

// Close does nothing.
func (*Reaper) Close() {}

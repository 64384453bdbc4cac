//go:build !linux

package forkspawn

import (
	"errors"
	"fmt"
)

// subreaper is not available here.
type subreaper struct{}

func newSubreaper(string) (*subreaper, error) {
	return nil, fmt.Errorf("Config.Subreaper: this platform has none: %w", errors.ErrUnsupported)
}

func (*subreaper) mark(_ string, cmd Command) []string                    { return cmd.Env }
func (*subreaper) started(start func() (Process, error)) (Process, error) { return start() }
func (*subreaper) ended(int, string)                                      {}
func (*subreaper) close()                                                 {}

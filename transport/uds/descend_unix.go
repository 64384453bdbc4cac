//go:build linux || darwin

package uds

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

var errEnded = errors.New("it has ended")

// descends looks whether a process descends from another, of which it is known that it is there.
func descends(pid, ancestor int) error {
	// The numbers of groups and sessions are not given to processes as long as somebody is in them: who is in ancestor's was put
	// there by ancestor, by a descendant, or, into a group, by itself.
	if group, err := unix.Getpgid(pid); err == nil && group == ancestor {
		return nil
	}
	if session, err := unix.Getsid(pid); err == nil && session == ancestor {
		return nil
	}
	line, err := parents(pid, ancestor)
	if err != nil {
		return err
	}
	// When a parent ends its children get another one for good: a line that is the same when looked at again had no
	// number in it, at the first look, that was given to somebody else meanwhile.
	again, err := parents(pid, ancestor)
	if err != nil {
		return err
	}
	if !slices.Equal(line, again) {
		return errors.New("its parents changed meanwhile")
	}
	return nil
}

// maxParents bounds a line of parents.
const maxParents = 256

// parents returns the line of parents from a process up to ancestor.
func parents(pid, ancestor int) (line []int, err error) {
	for p := pid; p != ancestor; {
		if len(line) == maxParents {
			return nil, fmt.Errorf("it has more than %d parents", maxParents)
		}
		if p, err = parentOf(p); err != nil {
			return nil, err
		}
		if p <= 1 { // 0 is outside of the namespace
			return nil, errors.New("that is not among its parents")
		}
		line = append(line, p)
	}
	return line, nil
}

//go:build unix

package roles

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// usesFiles writes to its file "log", and greets a connection of its file "listener".
// Then it sends its parent its descriptors, and those of a program of its own.
func usesFiles(ctx context.Context, p *forkspawn.Parent) error {
	if _, err := p.File("no"); !errors.Is(err, forkspawn.ErrNoFile) {
		return errors.New("there is a file without a name")
	}
	log, err := p.File("log")
	if err != nil {
		return err
	}
	if _, err := log.WriteString("a line"); err != nil {
		return err
	}
	f, err := p.File("listener")
	if err != nil {
		return err
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return err
	}
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	conn.Close()
	ln.Close()
	own, err := descriptors()
	if err != nil {
		return err
	}
	if err := p.Send(ctx, own); err != nil {
		return err
	}
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := s.Start(ctx, forkspawn.Command{Path: "sh",
		Args: []string{"-c", "ls /dev/fd/ | tr '\\n' ' '; env | grep SPAWNWIRE_FILES"}},
		forkspawn.WithStdout(forkspawn.Capture(nil)))
	if err != nil {
		return err
	}
	if _, err := c.Wait(ctx); err != nil {
		return err
	}
	return p.Send(ctx, c.StdoutTail())
}

// descriptors returns the targets of this process's descriptors.
func descriptors() (targets []string, err error) {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if target, err := os.Readlink("/proc/self/fd/" + n.Name()); err == nil {
			targets = append(targets, target)
		}
	}
	return targets, nil
}

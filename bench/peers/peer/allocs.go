package peer

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
)

// serveAllocs answers each connection to a socket in dir with the number of
// allocations of this process.
func serveAllocs(dir string) error {
	ln, err := net.Listen("unix", filepath.Join(dir, "allocs"))
	if err != nil {
		return err
	}
	go func() {
		for { // until the process ends
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			conn.Write(binary.LittleEndian.AppendUint64(nil, m.Mallocs))
			conn.Close()
		}
	}()
	return nil
}

// allocsOf returns a function. It asks the process with serveAllocs in dir.
func allocsOf(dir string) func() (uint64, error) {
	return func() (uint64, error) {
		conn, err := net.Dial("unix", filepath.Join(dir, "allocs"))
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		var b [8]byte
		_, err = io.ReadFull(conn, b[:])
		return binary.LittleEndian.Uint64(b[:]), err
	}
}

// ErrNoAllocs is the error of a Worker without a count of the other process's
// allocations.
var ErrNoAllocs = errors.New("the other process does not count its allocations")

func otherAllocs(ask func() (uint64, error)) (uint64, error) {
	if ask == nil {
		return 0, ErrNoAllocs
	}
	return ask()
}

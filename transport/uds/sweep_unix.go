//go:build linux || darwin

package uds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const lastResort = "/tmp"

// sweepAge is how long ago a directory must have been changed last before it may be swept. It
// covers an owner that has made its directory and not yet locked it. Tests set it.
var sweepAge = time.Minute

// The bounds of one sweep. /tmp can have very many entries, and a start must not wait for them.
const (
	sweepNames   = 4096 // entries of the place that are read
	sweepDirs    = 128  // directories that are looked at
	sweepEntries = 256  // entries in one of them; with more it is left alone
)

// claim marks dir as owned by a live process, until release or the end of the process.
func claim(dir string) (release func(), err error) {
	path := filepath.Join(dir, lockName)
	fd, err := open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := tryLock(fd); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	// Where this process slept for a minute before it had the lock, a sweep can have been here.
	if _, err := os.Lstat(path); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("removed by another process: %w", err)
	}
	return func() { unlockClose(fd) }, nil
}

// sweep removes the private directories of dead owners from place: best effort, within bounds.
func sweep(place string) {
	f, err := os.Open(place)
	if err != nil {
		return
	}
	defer f.Close()
	for read, dirs := 0, 0; read < sweepNames; {
		entries, err := f.ReadDir(256)
		read += len(entries)
		for _, e := range entries {
			if e.Type() != fs.ModeDir || !isDirName(e.Name()) {
				continue
			}
			if dirs++; dirs > sweepDirs {
				return
			}
			sweepDir(filepath.Join(place, e.Name()))
		}
		if err != nil {
			return
		}
	}
}

func sweepDir(dir string) {
	fi, err := os.Lstat(dir)
	if err != nil || !fi.IsDir() || !isOurs(fi) || fi.Mode().Perm() != 0o700 || time.Since(fi.ModTime()) <= sweepAge {
		return
	}
	lock := filepath.Join(dir, lockName)
	fd, err := open(lock, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		// The owner was killed before it had made the file, or a cleaner that goes by age took it from
		// a live one. In doubt only an empty directory goes.
		os.Remove(dir)
		return
	}
	if err != nil {
		return
	}
	defer unlockClose(fd)
	if tryLock(fd) != nil {
		return // the owner lives, or another sweep is at it
	}

	d, err := os.Open(dir)
	if err != nil {
		return
	}
	entries, _ := d.ReadDir(sweepEntries + 1)
	d.Close()
	sockets, others := sortOut(entries)
	if len(entries) > sweepEntries || len(others) > 0 {
		return
	}
	for _, name := range sockets {
		// A dead owner's child may still listen on what it inherited or made there.
		if held, err := probe(context.Background(), filepath.Join(dir, name)); held || err != nil {
			return
		}
	}
	if removeAll(dir, sockets) == nil && removeFile(lock) == nil {
		removeFile(dir)
	}
}

// isOurs tells whether the file belongs to the effective user of this process.
func isOurs(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

package uds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

const (
	dirPrefix = "spawnwire-" // os.MkdirTemp adds up to 10 digits
	dirDigits = 10

	// lockName is the file whose lock says that a directory's owner is alive. It is a file inside and
	// not the directory itself, because that one's lock is what Listen takes for a moment: whoever
	// listens in the directory, such as a child of its owner, would wait for the owner to end.
	lockName = ".lock"

	// maxShortName is how long a socket's name in a directory can be whatever the place.
	maxShortName = 16
)

// Dir is a directory for sockets that only its owner can enter: mode 0700 from the start, so that
// there is no moment in which others could connect. All methods may be called concurrently.
//
// A Dir holds one descriptor, close-on-exec, with a lock that tells others that its owner is alive,
// until Remove or the end of the process. What a killed process leaves is removed by later calls of
// [NewDir].
type Dir struct {
	path string

	mu      sync.Mutex
	release func() // ends the lock; nil after Remove
}

// NewDir makes a private directory spawnwire-<digits>, in the first of these places where that works
// and where a socket's path stays below the platform's limit with a name of up to 16 bytes:
//
//  1. $XDG_RUNTIME_DIR, if it is set and belongs to the caller's effective user, as the XDG base
//     directory specification demands;
//  2. [os.TempDir], which is $TMPDIR or /tmp on Unix;
//  3. /tmp, on Unix;
//  4. /dev/shm, on Linux: in a container with a read-only root often the only place that can be
//     written to.
//
// If none works, the error has all places and reasons in one line: a [*PathError] for a place that is too long, else what
// the system said (fs.ErrNotExist, fs.ErrPermission, syscall.EROFS, syscall.ENOSPC and so on).
//
// On Linux and Darwin it also removes, from the place it chose, what killed owners left: directories
// with such a name that are its user's, have mode 0700, did not change for a minute, have a lock that
// nobody holds, and in them nothing but sockets that nobody holds. It reads at most 4096 names and
// looks at 128 directories at most, and what it cannot remove it leaves, without an error.
//
// NewDir may be called concurrently.
func NewDir() (*Dir, error) {
	return newDirIn(places())
}

// place is a directory in which a Dir may be made.
type place struct {
	name string // where it was found: a variable's name or a word
	dir  string
	own  bool // it must belong to us
}

func places() []place {
	all := []place{
		{name: "$XDG_RUNTIME_DIR", dir: os.Getenv("XDG_RUNTIME_DIR"), own: true},
		{name: "temporary directory", dir: os.TempDir()},
		{name: "last resort", dir: lastResort},
		{name: "shared memory", dir: sharedMemory},
	}
	var unique []place
	seen := make(map[string]bool)
	for _, p := range all {
		if p.dir != "" && !seen[p.dir] {
			seen[p.dir] = true
			unique = append(unique, p)
		}
	}
	return unique
}

func newDirIn(places []place) (*Dir, error) {
	var causes []error
	for _, p := range places {
		d, err := p.makeDir()
		if err == nil {
			sweep(p.dir)
			return d, nil
		}
		causes = append(causes, fmt.Errorf("%s %s: %w", p.name, p.dir, err))
	}
	return nil, fmt.Errorf("uds: no place for a private directory: %w", allOf(causes))
}

func (p place) makeDir() (*Dir, error) {
	if !filepath.IsAbs(p.dir) {
		return nil, errors.New("not an absolute path")
	}
	longest := filepath.Join(p.dir, dirPrefix+strings.Repeat("0", dirDigits), strings.Repeat("x", maxShortName))
	if len(longest) > maxName {
		return nil, &PathError{Path: longest, Len: len(longest), Limit: maxName}
	}
	if p.own {
		fi, err := os.Stat(p.dir)
		if err != nil {
			return nil, err
		}
		if !isOurs(fi) {
			return nil, errors.New("belongs to another user") // who could put a directory of his in the place of ours
		}
	}
	path, err := os.MkdirTemp(p.dir, dirPrefix+"*")
	if err != nil {
		return nil, err
	}
	release, err := claim(path)
	if err != nil {
		os.Remove(filepath.Join(path, lockName))
		os.Remove(path)
		return nil, err
	}
	return &Dir{path: path, release: release}, nil
}

// Path returns the directory's absolute path.
func (d *Dir) Path() string { return d.path }

// Addr returns the address of the socket called name in the directory. A name of up to 16 bytes
// is never too long. A name that is empty, "." or "..", or that has a path separator,
// gives the zero Addr, which Dial and Listen refuse; nothing else is checked.
func (d *Dir) Addr(name string) transport.Addr {
	if name == "." || !filepath.IsLocal(name) || filepath.Base(name) != name {
		return transport.Addr{}
	}
	return transport.Addr{Scheme: transport.SchemeUDS, Target: filepath.Join(d.path, name)}
}

// Beside returns the address of the socket called name in the private directory that addr is in; false when addr
// is in none that NewDir could have made. So a process can listen in the directory of the process that
// gave it addr, and does not need one of its own. A name is as for [Dir.Addr].
func Beside(addr transport.Addr, name string) (transport.Addr, bool) {
	path := filepath.Dir(addr.Target)
	if addr.Scheme != transport.SchemeUDS || isAbstract(addr.Target) || !isDirName(filepath.Base(path)) {
		return transport.Addr{}, false
	}
	beside := (&Dir{path: path}).Addr(name)
	return beside, !beside.IsZero()
}

// besideLockWait bounds how long RemoveBeside waits for the lock on the directory.
const besideLockWait = 100 * time.Millisecond

// RemoveBeside removes the sockets beside addr (see [Beside]) whose names begin with prefix: those of a process that is known to
// have ended. If it had left any, it was killed, and so may have been processes that listened beside it on its
// behalf: then other sockets that nobody holds are removed too. It is best effort and reports no errors; it does
// nothing when addr is in no private directory.
func RemoveBeside(addr transport.Addr, prefix string) {
	beside, ok := Beside(addr, "x")
	if !ok || prefix == "" {
		return
	}
	dir := filepath.Dir(beside.Target)
	entries, _ := os.ReadDir(dir)
	sockets, _ := sortOut(entries)
	var others []string
	for _, name := range sockets {
		if strings.HasPrefix(name, prefix) {
			removeFile(filepath.Join(dir, name))
		} else {
			others = append(others, name)
		}
	}
	if len(others) == len(sockets) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), besideLockWait)
	defer cancel()
	unlock, err := lockDir(ctx, dir) // for what Listen says of its lock
	if err != nil {
		return
	}
	defer unlock()
	for _, name := range others {
		removeStale(ctx, filepath.Join(dir, name))
	}
}

// isDirName tells whether [NewDir] makes such names.
func isDirName(name string) bool {
	digits, ok := strings.CutPrefix(name, dirPrefix)
	return ok && digits != "" && len(digits) <= dirDigits && strings.Trim(digits, "0123456789") == ""
}

// Remove removes the sockets in the directory, whether or not somebody still listens on them, and the
// directory. What is gone already is no error, nor is a second Remove.
//
// It removes nothing that is not a socket: if there is such a thing in the directory, the directory
// stays and the error, which matches [ErrNotSocket], names it. The lock ends in every case.
//
// A process that is out of descriptors can remove a directory that is empty but for the lock.
func (d *Dir) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.release != nil {
		defer d.release() // last, so that no sweep comes between
		d.release = nil
	}
	entries, err := os.ReadDir(d.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case isOutOfDescriptors(err) && removeFile(filepath.Join(d.path, lockName)) == nil && removeFile(d.path) == nil:
		return nil // there was nothing else in it, as there is when whoever listened has closed
	case err != nil:
		return fmt.Errorf("uds: remove private directory: %w", err)
	}
	sockets, others := sortOut(entries)
	err = removeAll(d.path, sockets)
	if len(others) > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %q", ErrNotSocket, others))
	}
	if err == nil {
		err = errors.Join(removeFile(filepath.Join(d.path, lockName)), removeFile(d.path))
	}
	if err != nil {
		return fmt.Errorf("uds: remove private directory %s: %w", d.path, err)
	}
	return nil
}

// sortOut names what is in a private directory, but for the lock file.
func sortOut(entries []fs.DirEntry) (sockets, others []string) {
	for _, e := range entries {
		switch {
		case e.Type() == fs.ModeSocket:
			sockets = append(sockets, e.Name())
		case e.Name() == lockName && e.Type().IsRegular():
		default:
			others = append(others, e.Name())
		}
	}
	return sockets, others
}

// removeAll goes on after an error: one file that stays is no reason to leave the rest.
func removeAll(dir string, names []string) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, removeFile(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

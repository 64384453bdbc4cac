package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/internal/wait"
)

const (
	dirPrefix = "spawnwire-" // os.MkdirTemp adds up to 10 digits
	dirDigits = 10

	// lockName is the file with the lock of a directory's owner. It is not the
	// directory's own lock, because Listen takes that one for a moment: a child
	// that listens in the directory would wait for the owner's end.
	lockName = ".lock"

	// maxShortName is the longest name of a socket that every Dir has room for.
	maxShortName = 16
)

// Dir is a directory for sockets. Only its owner can enter it: it has mode 0700 from
// the start. All methods may be called concurrently.
//
// Until Remove, or the end of the process, a Dir has a descriptor with a lock, which
// shows that its owner lives. Later calls of NewDir remove the directories of killed
// processes. Every hour the Dir sets the times of its files, because cleaners of
// temporary directories remove old files (systemd-tmpfiles(8), tmpreaper(8)).
type Dir struct {
	path string
	mode fs.FileMode

	mu      sync.Mutex  // guards the rest
	release func()      // ends the lock; nil after Remove
	refresh *time.Timer // sets the times
}

// refreshInterval is the time between two updates of the files' times. Tests set it.
var refreshInterval = time.Hour

// NewDir makes a private directory spawnwire-<digits>. It tries these places in order.
// A place is unsuitable if the path of a socket with a name of 16 bytes would be too
// long:
//
//  1. $XDG_RUNTIME_DIR, if it belongs to the effective user, as the XDG base directory
//     specification demands;
//  2. [os.TempDir], which is $TMPDIR or /tmp on Unix;
//  3. /tmp, on Unix;
//  4. /dev/shm, on Linux: in a container with a read-only root it may be the only
//     writable place.
//
// If none works, the error has the reason for each place.
//
// On Linux and Darwin NewDir also removes the directories of killed owners in the
// same place. They have such a name, the same user, mode 0700, no change for a minute, a free
// lock, and only unbound sockets in them. It reads at most 4096 names, looks at 128
// directories, and reports no errors for them.
func NewDir() (*Dir, error) { return newDirIn(places()) }

// NewSharedDir is like NewDir, but other users can connect to the sockets in the
// directory if they know their names and the sockets' modes allow it: the directory has
// mode 0711. It is never in $XDG_RUNTIME_DIR, which others cannot enter.
func NewSharedDir() (*Dir, error) {
	var shared []place
	for _, p := range places() {
		if !p.own {
			p.mode = 0o711
			shared = append(shared, p)
		}
	}
	return newDirIn(shared)
}

// place is a directory in which NewDir may make one.
type place struct {
	name string // for errors
	dir  string
	own  bool        // it must belong to this user
	mode fs.FileMode // of the new directory; 0 is 0700
}

func places() []place {
	all := []place{
		{name: "$XDG_RUNTIME_DIR", dir: os.Getenv("XDG_RUNTIME_DIR"), own: true},
		{name: "temporary directory", dir: os.TempDir()},
	}
	if runtime.GOOS != "windows" {
		all = append(all, place{name: "last resort", dir: "/tmp"})
	}
	if runtime.GOOS == "linux" {
		all = append(all, place{name: "shared memory", dir: "/dev/shm"})
	}
	var unique []place
	seen := map[string]bool{"": true}
	for _, p := range all {
		if !seen[p.dir] {
			seen[p.dir] = true
			unique = append(unique, p)
		}
	}
	return unique
}

func newDirIn(places []place) (*Dir, error) {
	var causes oneLine
	for _, p := range places {
		d, err := p.makeDirInTime()
		if err == nil {
			sweep(p.dir)
			return d, nil
		}
		causes = append(causes, fmt.Errorf("%s %s: %w", p.name, p.dir, err))
	}
	return nil, fmt.Errorf("no place for a private directory: %w", causes)
}

// placeTimeout is how long a file system may take to answer.
const placeTimeout = 5 * time.Second

var errNoAnswer = fmt.Errorf("the file system has not answered within %v", placeTimeout)

// makeDirInTime is makeDir, if the file system answers. Only the question is in
// another goroutine, because a thread can have an owner and a root of its own.
func (p place) makeDirInTime() (*Dir, error) {
	ctx, cancel := context.WithTimeout(context.Background(), placeTimeout)
	defer cancel()
	if !wait.ForFile(ctx, p.dir) {
		return nil, errNoAnswer
	}
	return p.makeDir()
}

// oneLine is several errors with one line of text.
type oneLine []error

func (e oneLine) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}
func (e oneLine) Unwrap() []error { return e }

func (p place) makeDir() (*Dir, error) {
	if !filepath.IsAbs(p.dir) {
		return nil, errors.New("not an absolute path")
	}
	longest := filepath.Join(p.dir, dirPrefix+strings.Repeat("0", dirDigits),
		strings.Repeat("x", maxShortName))
	if len(longest) > MaxName {
		return nil, fmt.Errorf("socket path %q has %d bytes, the limit is %d",
			longest, len(longest), MaxName)
	}
	if p.own {
		fi, err := os.Stat(p.dir)
		if err != nil {
			return nil, err
		}
		if !isOurs(fi) {
			return nil, errors.New("belongs to another user") // who could replace our directory
		}
	}
	path, err := os.MkdirTemp(p.dir, dirPrefix+"*")
	if err != nil {
		return nil, err
	}
	if p.mode == 0 {
		p.mode = 0o700
	}
	release := func() {}
	if err = os.Chmod(path, p.mode); err == nil { // whatever the umask is
		release, err = claim(path)
	}
	if err == nil {
		if err = probe(filepath.Join(path, probeName)); err != nil {
			release()
		}
	}
	if err != nil {
		os.Remove(filepath.Join(path, lockName))
		os.Remove(path)
		return nil, err
	}
	d := &Dir{path: path, mode: p.mode, release: release}
	d.mu.Lock() // for touch, which may run soon
	defer d.mu.Unlock()
	d.refresh = time.AfterFunc(refreshInterval, d.touch)
	return d, nil
}

// probeName is the name of a socket that makeDir binds to see whether the file system
// has sockets. Some have none: FAT, AFS, and some that FUSE mounts.
const probeName = "probe"

// probe returns an error if no socket can be bound at a path. Tests set it.
var probe = bindProbe

// touch sets the times of the directory and of its files to now.
func (d *Dir) touch() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.release == nil {
		return
	}
	now := time.Now()
	entries, _ := os.ReadDir(d.path)
	for _, e := range entries {
		os.Chtimes(filepath.Join(d.path, e.Name()), now, now)
	}
	os.Chtimes(d.path, now, now)
	d.refresh.Reset(refreshInterval)
}

// Restore makes the directory and its lock again, with the same path, if somebody has
// removed them. It is an error if the path has become something else.
func (d *Dir) Restore() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.release == nil {
		return fs.ErrClosed
	}
	err := os.Mkdir(d.path, d.mode)
	if err == nil {
		err = os.Chmod(d.path, d.mode)
	} else if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("restore private directory: %w", err)
	}
	fi, err := os.Lstat(d.path)
	if err != nil {
		return fmt.Errorf("restore private directory: %w", err)
	}
	if !fi.IsDir() || !isOurs(fi) || fi.Mode().Perm() != d.mode {
		return fmt.Errorf("restore private directory: %s is not this process's any more", d.path)
	}
	if _, err := os.Lstat(filepath.Join(d.path, lockName)); err == nil {
		return nil
	}
	release, err := claim(d.path)
	if err != nil {
		return fmt.Errorf("restore private directory: %w", err)
	}
	d.release()
	d.release = release
	return nil
}

// Path returns the directory's absolute path.
func (d *Dir) Path() string { return d.path }

// Socket returns the path of the socket called name in the directory. A name of up to
// 16 bytes is never too long. For a name that is empty, "." or "..", or has a path
// separator, Socket returns "".
func (d *Dir) Socket(name string) string {
	if name == "." || !filepath.IsLocal(name) || filepath.Base(name) != name {
		return ""
	}
	return filepath.Join(d.path, name)
}

// Beside returns the path of the socket called name in the private directory of the
// socket at path. So a process can listen in the directory of another one. It returns ""
// if path is not in a directory of NewDir, or name is not suitable for Socket.
func Beside(path, name string) string {
	dir := filepath.Dir(path)
	if !filepath.IsAbs(path) || !isDirName(filepath.Base(dir)) {
		return ""
	}
	return (&Dir{path: dir}).Socket(name)
}

// lockWait is how long RemoveBeside waits for the lock on the directory.
const lockWait = 100 * time.Millisecond

// RemoveBeside removes the sockets of a process that has ended: those in the private
// directory of path with names that begin with prefix. If there are any, the process
// was killed, and perhaps others that listened there for it. Then RemoveBeside also
// removes unbound sockets with other names. It reports no errors. If path is in no
// private directory, it does nothing.
func RemoveBeside(path, prefix string) {
	if Beside(path, "x") == "" || prefix == "" {
		return
	}
	dir := filepath.Dir(path)
	entries, _ := os.ReadDir(dir)
	sockets, _ := sortOut(entries)
	var others []string
	for _, name := range sockets {
		if strings.HasPrefix(name, prefix) {
			Remove(filepath.Join(dir, name))
		} else {
			others = append(others, name)
		}
	}
	if len(others) == len(sockets) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	unlock, err := LockDir(ctx, dir)
	if err != nil {
		return
	}
	defer unlock()
	for _, name := range others {
		RemoveStale(ctx, filepath.Join(dir, name))
	}
}

// isDirName reports whether NewDir makes directories with such a name.
func isDirName(name string) bool {
	digits, ok := strings.CutPrefix(name, dirPrefix)
	return ok && digits != "" && len(digits) <= dirDigits &&
		strings.Trim(digits, "0123456789") == ""
}

// Remove removes the directory and the sockets in it, bound or not. It is no error if
// they do not exist any more. A second call returns nil.
//
// Remove removes only sockets. If there is something else in the directory, the
// directory stays, and the error matches ErrNotSocket. The lock ends in any case.
func (d *Dir) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.release != nil {
		defer d.release() // at the end, so that no sweep interferes
		d.release = nil
		d.refresh.Stop()
	}
	entries, err := os.ReadDir(d.path)
	noDescriptors := errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case noDescriptors && Remove(filepath.Join(d.path, lockName)) == nil && Remove(d.path) == nil:
		return nil // all listeners had closed, so there was only the lock
	case err != nil:
		return fmt.Errorf("remove private directory: %w", err)
	}
	sockets, others := sortOut(entries)
	err = removeAll(d.path, sockets)
	if len(others) > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %q", ErrNotSocket, others))
	}
	if err == nil {
		err = errors.Join(Remove(filepath.Join(d.path, lockName)), Remove(d.path))
	}
	if err != nil {
		return fmt.Errorf("remove private directory %s: %w", d.path, err)
	}
	return nil
}

// sortOut returns the names in a private directory, without the lock file.
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

// removeAll removes all the files that it can.
func removeAll(dir string, names []string) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, Remove(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

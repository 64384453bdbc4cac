package forkspawn

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template"
)

// ErrNoFile is the error of [Parent.File] if the parent has given no such file.
var ErrNoFile = errors.New("the parent has given no such file")

// maxFiles is the most files of a command. One message over a Unix socket carries
// no more than 253 (SCM_RIGHTS in unix(7)).
const maxFiles = 200

// checkFiles refuses bad names, and too many files.
func (c *Command) checkFiles() error {
	if len(c.Files) > maxFiles {
		return badField("Command.Files", "%d files, the limit is %d", len(c.Files), maxFiles)
	}
	for name, f := range c.Files {
		if name == "" || strings.ContainsAny(name, "=,\x00") {
			return badField("Command.Files", "%q is no name", name)
		}
		if f == nil {
			return badField("Command.Files", "%q is nil", name)
		}
	}
	return nil
}

// files returns the files in the order of their names, and the environment variable
// with their numbers in an executed process. Both are empty without files.
func (c *Command) files() (files []*os.File, variable string) {
	if len(c.Files) == 0 {
		return nil, ""
	}
	names := slices.Sorted(maps.Keys(c.Files))
	entries := make([]string, len(names))
	for i, name := range names {
		files = append(files, c.Files[name])
		entries[i] = name + "=" + strconv.Itoa(3+i)
	}
	return files, template.FilesEnv + "=" + strings.Join(entries, ",")
}

// takeFiles returns this process's files from its parent, and removes the variable.
// The programs of this process do not get them.
func takeFiles() map[string]*os.File {
	variable, ok := os.LookupEnv(template.FilesEnv)
	if !ok {
		return nil
	}
	os.Unsetenv(template.FilesEnv)
	files := make(map[string]*os.File)
	for entry := range strings.SplitSeq(variable, ",") {
		name, number, _ := strings.Cut(entry, "=")
		if fd, err := strconv.Atoi(number); err == nil && fd > 2 && osproc.KeepToSelf(fd) {
			files[name] = os.NewFile(uintptr(fd), name)
		}
	}
	return files
}

// File returns the file with this name in the parent's Command.Files. Each call with
// the same name returns the same file, and the caller may close it. For a listener
// there is [net.FileListener]. If there is no such file, the error matches
// [ErrNoFile].
func (p *Parent) File(name string) (*os.File, error) {
	f := p.files[name]
	if f == nil {
		return nil, fmt.Errorf("forkspawn: file %q: %w", name, ErrNoFile)
	}
	return f, nil
}

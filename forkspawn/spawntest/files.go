package spawntest

import (
	"io/fs"
	"path/filepath"
	"strings"
)

// listFiles describes what this library can leave in the temporary directory: sockets, and the private
// directories that package transport/uds makes for them.
func listFiles() (list []string) {
	filepath.WalkDir(home.dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil: // it went away meanwhile
		case e.Type() == fs.ModeSocket:
			list = append(list, "socket "+path)
		case e.IsDir() && strings.HasPrefix(e.Name(), "spawnwire-"):
			list = append(list, "directory "+path)
		}
		return nil
	})
	return list
}

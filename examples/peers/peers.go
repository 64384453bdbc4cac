// Package peers finds the interpreters for the Python and Node.js programs in its
// folders. Their tests and examples/polyglot use it.
package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// Python returns the path of a Python 3 with the module cbor2. Its error explains
// how to install them. If interpreter is "", Python tries python3 in PATH and
// then /usr/bin/python3, because only that one finds Debian's python3-cbor2.
func Python(ctx context.Context, interpreter string) (string, error) {
	candidates := []string{interpreter}
	if interpreter == "" {
		candidates = []string{"python3", "/usr/bin/python3"}
	}
	var errs []error
	for _, candidate := range candidates {
		path, err := runs(ctx, ".", candidate, "-c", "import cbor2")
		if err == nil {
			return path, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("no Python 3 with the module cbor2; "+
		"on Debian: apt-get install python3-cbor2: %w", errors.Join(errs...))
}

// Node returns the path of a Node.js that finds the package cbor-x from dir, the
// folder with package.json. Its error explains how to install them. If
// interpreter is "", Node tries node in PATH.
func Node(ctx context.Context, dir, interpreter string) (string, error) {
	if interpreter == "" {
		interpreter = "node"
	}
	path, err := runs(ctx, dir, interpreter, "-e",
		"import('cbor-x').catch((e) => { console.error(e.message); process.exit(1) })")
	if err != nil {
		return "", fmt.Errorf("no Node.js with the package cbor-x; "+
			"on Debian: apt-get install nodejs npm, and then npm --prefix %s ci: %w", dir, err)
	}
	return path, nil
}

// runs finds the program, runs it in dir for at most a minute, and returns its
// path. The error includes the output of the program.
func runs(ctx context.Context, dir, name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", path, err, bytes.TrimSpace(out))
	}
	return path, nil
}

// Polyglot lets children in Python, Node.js and Go do the same work. It cuts a
// file into parts and sends each part to two children. Both return the SHA-256
// and the number of words, and polyglot compares the results.
//
//	go run ./examples/polyglot [-peers DIR] [-part BYTES] [FILE]
//
// The children in Python and Node.js are in examples/peers. Its README lists
// what they need.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spawnwire/spawnwire/examples/peers"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// summary is the answer of a child to one part.
type summary struct {
	SHA256 []byte `cbor:"sha256"`
	Words  int    `cbor:"words"`
}

// entry is the name of digest. The children in examples/peers have the same entry.
const entry = "digest"

func digest(ctx context.Context, parent *forkspawn.Parent) error {
	for {
		var data []byte
		if err := parent.Recv(ctx, &data); err != nil {
			return err // the parent asks us to stop, or has died
		}
		sum := sha256.Sum256(data)
		words := len(bytes.FieldsFunc(data,
			func(r rune) bool { return r == ' ' || '\t' <= r && r <= '\r' }))
		if err := parent.Send(ctx, summary{sum[:], words}); err != nil {
			return err
		}
	}
}

func main() {
	forkspawn.Register(entry, digest)
	forkspawn.Init() // in the Go child: runs digest and exits

	dir := flag.String("peers", "examples/peers",
		"`folder` with the children in Python and Node.js")
	part := flag.Int("part", 4096, "bytes of the file in each part")
	python := flag.String("python", "",
		"Python `interpreter`; default: the first python3 that has cbor2")
	node := flag.String("node", "", "Node.js `interpreter`; default: node in PATH")
	flag.Parse()
	file := "README.md"
	if flag.NArg() > 0 {
		file = flag.Arg(0)
	}
	if err := run(os.Stdout, *dir, *python, *node, file, *part); err != nil {
		fmt.Fprintln(os.Stderr, "polyglot:", err)
		os.Exit(1)
	}
}

// commands returns the command of the child in each language. The zero Command
// starts this program.
func commands(ctx context.Context, dir, python, node string) (map[string]forkspawn.Command, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	scripts := map[string]string{
		"python": filepath.Join(dir, "python", "child.py"),
		"node":   filepath.Join(dir, "node", "child.mjs"),
	}
	var errs []error
	for _, script := range scripts {
		if _, err := os.Stat(script); err != nil {
			errs = append(errs, fmt.Errorf("-peers names no folder with the children: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	python, errPython := peers.Python(ctx, python)
	node, errNode := peers.Node(ctx, filepath.Join(dir, "node"), node)
	return map[string]forkspawn.Command{
		"python": {Path: python, Args: []string{"-B", scripts["python"]}},
		"node":   {Path: node, Args: []string{scripts["node"]}},
		"go":     {},
	}, errors.Join(errPython, errNode)
}

func run(out io.Writer, dir, python, node, file string, part int) error {
	if part < 1 {
		return errors.New("-part is not positive")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer spawner.Close() // stops all children
	ctx, stop := spawner.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	commands, err := commands(ctx, dir, python, node)
	if err != nil {
		return err
	}

	group, err := spawner.NewGroup(ctx, forkspawn.GroupConfig{})
	if err != nil {
		return err
	}
	languages := []string{"python", "node", "go"}
	children := make(map[string]*forkspawn.Child)
	for _, language := range languages {
		child, err := group.Spawn(group.Context(), spawnspec.Spec{Name: language, Entry: entry},
			forkspawn.WithCommand(commands[language]))
		if err != nil {
			return cancel(group, err)
		}
		children[language] = child
		fmt.Fprintf(out, "%-6s  pid %d, ready after %v\n", language, child.PID(),
			child.Boot().Total)
	}

	for n := 0; n*part < len(data); n++ {
		piece := data[n*part : min(len(data), (n+1)*part)]
		first, second := languages[n%3], languages[(n+1)%3]
		a, b, err := both(group.Context(), children[first], children[second], piece)
		if err != nil {
			return cancel(group, err)
		}
		if !bytes.Equal(a.SHA256, b.SHA256) || a.Words != b.Words {
			return fmt.Errorf("part %d: %s says %x, %d words; %s says %x, %d words",
				n, first, a.SHA256, a.Words, second, b.SHA256, b.Words)
		}
		fmt.Fprintf(out, "part %d: %d bytes, %d words, sha256 %x...: %s and %s agree\n",
			n, len(piece), a.Words, a.SHA256[:8], first, second)
	}

	for _, language := range languages {
		result, err := children[language].Stop(ctx)
		fmt.Fprintf(out, "%-6s  %v\n", language, result)
		if err != nil {
			return err
		}
	}
	return group.Wait()
}

// cancel ends the group. The returned error includes the errors of the children.
func cancel(group *forkspawn.Group, err error) error {
	group.Cancel(err)
	return errors.Join(err, group.Wait())
}

// both sends the same data to two children, which work concurrently, and returns
// their summaries.
func both(ctx context.Context, first, second *forkspawn.Child,
	data []byte) (a, b summary, err error) {
	if err = errors.Join(first.Send(ctx, data), second.Send(ctx, data)); err == nil {
		err = errors.Join(first.Recv(ctx, &a), second.Recv(ctx, &b))
	}
	return a, b, err
}

// Treehash prints the SHA-256 of every regular file below a directory, byte for byte as sha256sum would,
// and has child processes do the work.
//
//	go run ./examples/treehash [-workers N] [-transport uds|tcp] [-method exec] [-crash-after K] DIR
//
// It is the example from which to learn package forkspawn. Read it in this order:
//
//   - worker.go is the child: a registered entry that takes its orders, and answers one request after
//     the other over its channel.
//   - pool.go is the parent: it spawns workers, talks with them, and puts another one in the place of
//     one that dies. Try -crash-after 5.
//   - main.go is how it all ends: whatever happens, Ctrl-C, a reader of stdout that goes away, or kill
//     -9, no child lives on; and only kill -9 leaves a socket, which a later run removes.
//   - console.go is stderr, which errors, progress and the workers' own stderr share.
//
// It exits with 0; with 1 when a file could not be hashed, which a line on stderr tells, or a worker
// could not be started; with 2 when it was called wrongly; and with 130 on SIGINT and 143 on SIGTERM.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/transport"
)

const (
	exitFailure = 1
	exitUsage   = 2
	exitSignal  = 128 // plus the signal's number, as shells count
)

func main() {
	forkspawn.Register(entry, hashFiles) // what a child of this program can be asked to run
	forkspawn.Init()                     // in a child this runs the entry and does not return
	os.Exit(run(parse(os.Args[1:])))
}

type options struct {
	dir        string
	workers    int
	crashAfter int
	config     forkspawn.Config
}

// parse reads the command line. If that is wrong it says so and exits.
func parse(args []string) options {
	flags := flag.NewFlagSet("treehash", flag.ExitOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: treehash [flags] DIR")
		flags.PrintDefaults()
	}
	fail := func(format string, values ...any) {
		fmt.Fprintf(flags.Output(), "treehash: "+format+"\n", values...)
		flags.Usage()
		os.Exit(exitUsage)
	}
	var o options
	flags.IntVar(&o.workers, "workers", runtime.NumCPU(), "number of child `processes`")
	flags.IntVar(&o.crashAfter, "crash-after", 0, "let each first worker kill itself after so many `files`; 0 is never")
	network := flags.String("transport", "uds", "`network` between parent and children: uds or tcp")
	flags.StringVar(&o.config.Method, "method", forkspawn.MethodExec, "start `method` of the children")
	flags.Parse(args)

	if o.workers < 1 {
		fail("-workers %d: want 1 or more", o.workers)
	}
	if o.crashAfter < 0 {
		fail("-crash-after %d: want 0 or more", o.crashAfter)
	}
	switch *network {
	case "uds": // the default of Config.Listen, in a private directory
	case "tcp":
		o.config.Listen = transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}
	default:
		fail("-transport %q: want uds or tcp", *network)
	}
	if flags.NArg() != 1 {
		fail("want one directory, got %d arguments", flags.NArg())
	}
	dir := flags.Arg(0)
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	}
	if err == nil {
		o.dir, err = filepath.EvalSymlinks(dir) // as WalkDir follows none, not even this one
	}
	if err != nil {
		fail("%v", err)
	}
	return o
}

// run returns the exit code. It holds the reins: it returns when the work is done or a signal came,
// even if the work is stuck in a write to a stdout that nobody reads.
func run(opts options) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	// Taken so that it does not kill us: a write to a closed pipe is an error like any other then.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	stderr := newConsole(os.Stderr)
	defer stderr.end()
	opts.config.Stdout = forkspawn.Null() // nothing but this process writes to stdout
	opts.config.Stderr = forkspawn.Capture(stderr)
	spawner, err := forkspawn.New(opts.config)
	if err != nil {
		stderr.printf("%v", err)
		var method *forkspawn.MethodError
		if errors.As(err, &method) {
			return exitUsage
		}
		return exitFailure
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan int, 1)
	go func() { done <- hashTree(ctx, spawner, stderr, opts) }()
	select {
	case code := <-done:
		return code
	case sig := <-signals:
		cancel()
		spawner.Shutdown(ctx) // as ctx has ended, it kills at once and does not ask first
		return exitSignal + int(sig.(syscall.Signal))
	}
}

// hashTree does the work and returns the exit code.
func hashTree(ctx context.Context, spawner *forkspawn.Spawner, stderr *console, opts options) (code int) {
	paths, complete := regularFiles(ctx, opts.dir, stderr)
	if !complete {
		code = exitFailure
	}
	p := pool{spawner: spawner, stderr: stderr, dir: opts.dir, workers: opts.workers, crashAfter: opts.crashAfter}
	answers, err := p.hash(ctx, paths)
	stderr.end()
	if ctx.Err() != nil {
		return exitFailure // a signal: nothing more is to be said
	}
	if err != nil {
		stderr.printf("%v", err)
		return exitFailure
	}

	out := bufio.NewWriter(os.Stdout)
	for i, a := range answers {
		if a.Err != "" {
			stderr.printf("%q: %s", "./"+paths[i], a.Err)
			code = exitFailure
			continue
		}
		writeSum(out, a.Sum[:], "./"+paths[i])
	}
	// EPIPE: whoever read it, such as head(1), has seen enough.
	if err := out.Flush(); err != nil && !errors.Is(err, syscall.EPIPE) {
		stderr.printf("%v", err)
		code = exitFailure
	}
	return code
}

// regularFiles returns the paths, relative to dir, of all regular files below it in the order of their
// bytes, and whether it could read every directory. It follows no symlink.
func regularFiles(ctx context.Context, dir string, stderr *console) (paths []string, complete bool) {
	complete = true
	filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		path, _ = filepath.Rel(dir, path) // it is below dir
		path = filepath.ToSlash(path)
		switch {
		case err != nil:
			stderr.printf("%q: %v", "./"+path, reason(err))
			complete = false
		case entry.Type().IsRegular():
			paths = append(paths, path)
		}
		return ctx.Err()
	})
	slices.Sort(paths)
	return paths, complete
}

var escaper = strings.NewReplacer("\\", `\\`, "\n", `\n`, "\r", `\r`)

// writeSum writes what sha256sum does: one line whatever the name, with a backslash in front of it if the
// name had to be changed for that.
func writeSum(w *bufio.Writer, sum []byte, path string) {
	name := escaper.Replace(path)
	if name != path {
		w.WriteByte('\\')
	}
	fmt.Fprintf(w, "%x  %s\n", sum, name)
}

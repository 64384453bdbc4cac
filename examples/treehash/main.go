// Treehash prints the SHA-256 of every regular file below a directory. Child
// processes compute the sums. The output is the same as that of sha256sum.
//
//	go run ./examples/treehash [-workers N] [-transport uds|tcp] [-method exec]
//		[-crash-after K] [-on ssh:HOST,HOST | -on slurm:N] [-live :PORT] DIR
//
// With -on the children run on other machines, and the files are sent to them: on those
// that ssh reaches, or N on the nodes of a Slurm cluster. With
// -live a page shows the processes; see package live.
//
// It shows how to build a pool of workers with packages forkspawn and call. Read it in
// this order:
//
//   - worker.go is the child: an entry that serves calls.
//   - pool.go is the parent: it spreads calls over workers with call.Map, and
//     replaces a worker that dies. Try -crash-after 5.
//   - main.go reads the command line and handles signals. No child outlives
//     the program, not even after kill -9. Only kill -9 leaves a socket, and the
//     next run removes it.
//   - live.go serves the page of -live.
//   - console.go is stderr, with errors, progress and the workers' own stderr.
//
// The exit code is 1 if a file could not be hashed or a worker could not be
// started, and 2 if the command line is wrong. It is 130 after SIGINT and 143
// after SIGTERM.
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
	"strconv"
	"strings"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/launch/slurm"
	"github.com/spawnwire/spawnwire/launch/ssh"
	"github.com/spawnwire/spawnwire/transport"
)

const (
	exitFailure = 1
	exitUsage   = 2
	exitSignal  = 128 // plus the signal's number, as in a shell
)

func main() {
	forkspawn.Register(entry, hashFiles) // an entry that children can run
	forkspawn.Init()                     // in a child: runs the entry and exits
	os.Exit(run(parse(os.Args[1:])))
}

type options struct {
	dir        string
	workers    int
	crashAfter int
	hosts      []forkspawn.Launcher // where the workers run; none is this machine
	nodes      *slurm.Launcher      // with -on slurm:N
	live       string               // the address of the page, or empty
	config     forkspawn.Config
}

// parse reads the command line. If it is wrong, parse prints why and exits.
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
	flags.IntVar(&o.crashAfter, "crash-after", 0,
		"kill each first worker after this many `files`; 0 means never")
	network := flags.String("transport", "uds", "`network` between parent and children: uds or tcp")
	method := flags.String("method", string(forkspawn.MethodExec), "start `method` of the children")
	on := flags.String("on", "", "run the workers on other `machines`: ssh:HOST,HOST or slurm:N")
	flags.StringVar(&o.live, "live", "",
		"serve a page with the processes at this `address`, such as :6060")
	flags.Parse(args)
	o.config.Method = forkspawn.Method(*method)

	if o.workers < 1 {
		fail("-workers %d: want 1 or more", o.workers)
	}
	if o.crashAfter < 0 {
		fail("-crash-after %d: want 0 or more", o.crashAfter)
	}
	switch *network {
	case "uds": // the default, in a private directory
	case "tcp":
		o.config.Listen = transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}
	default:
		fail("-transport %q: want uds or tcp", *network)
	}
	if *on != "" {
		kind, where, _ := strings.Cut(*on, ":")
		n, err := strconv.Atoi(where)
		switch {
		case kind == "ssh" && where != "":
			for name := range strings.SplitSeq(where, ",") {
				o.hosts = append(o.hosts, &ssh.Host{Name: name})
			}
		case kind == "slurm" && err == nil && n >= 1:
			o.nodes, o.workers = new(slurm.Launcher), n
			o.hosts = []forkspawn.Launcher{o.nodes}
		default:
			fail("-on %q: want ssh:HOST,HOST or slurm:N", *on)
		}
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
		// WalkDir follows no symlink, not even dir itself.
		o.dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		fail("%v", err)
	}
	return o
}

// run returns the exit code. It returns when the work is done or a signal has
// arrived, even if the work is blocked in a write to stdout.
func run(opts options) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	// Without this SIGPIPE would kill the program. Now a write to a closed pipe
	// returns EPIPE.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	stderr := newConsole(os.Stderr)
	defer stderr.end()
	opts.config.Stdout = forkspawn.Null() // only this process writes to stdout
	opts.config.Stderr = forkspawn.Capture(stderr)
	spawner, err := forkspawn.New(opts.config)
	if err != nil {
		stderr.printf("%v", err)
		var config *forkspawn.ConfigError
		if errors.As(err, &config) {
			return exitUsage
		}
		return exitFailure
	}

	if opts.live != "" {
		closeLive, err := serveLive(opts.live, spawner, stderr)
		if err != nil {
			stderr.printf("%v", err)
			spawner.Close()
			return exitFailure
		}
		defer closeLive()
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
		spawner.Shutdown(ctx) // kills the children at once, because ctx has ended
		return exitSignal + int(sig.(syscall.Signal))
	}
}

// hashTree does the work and returns the exit code.
func hashTree(ctx context.Context, spawner *forkspawn.Spawner, stderr *console,
	opts options) (code int) {
	paths, complete := regularFiles(ctx, opts.dir, stderr)
	if !complete {
		code = exitFailure
	}
	opts.workers = min(opts.workers, len(paths))
	// Inside of an allocation srun uses that one.
	if opts.nodes != nil && opts.workers > 0 && os.Getenv("SLURM_JOB_ID") == "" {
		all, err := slurm.Allocate(ctx, "--ntasks="+strconv.Itoa(opts.workers))
		if err != nil {
			stderr.printf("%v", err)
			spawner.Close()
			return exitFailure
		}
		defer all.Close() // without an error the workers have ended before
		opts.nodes.Allocation = all
	}
	p := pool{spawner: spawner, stderr: stderr, dir: opts.dir, crashAfter: opts.crashAfter,
		hosts: opts.hosts, workers: make([]worker, opts.workers)}
	answers, err := p.hash(ctx, paths)
	stderr.end()
	if ctx.Err() != nil {
		return exitFailure // after a signal; run returns the exit code for it
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
	// EPIPE is no failure: the reader, such as head(1), needs no more lines.
	if err := out.Flush(); err != nil && !errors.Is(err, syscall.EPIPE) {
		stderr.printf("%v", err)
		code = exitFailure
	}
	return code
}

// regularFiles returns the paths of all regular files below dir, relative to dir
// and sorted by their bytes. It follows no symlink. complete is false if a
// directory could not be read.
func regularFiles(ctx context.Context, dir string,
	stderr *console) (paths []string, complete bool) {
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

// writeSum writes one line as sha256sum does. If the name has a backslash or the
// end of a line in it, these are escaped and the line begins with a backslash.
func writeSum(w *bufio.Writer, sum []byte, path string) {
	name := escaper.Replace(path)
	if name != path {
		w.WriteByte('\\')
	}
	fmt.Fprintf(w, "%x  %s\n", sum, name)
}

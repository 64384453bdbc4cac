//go:build linux && (amd64 || arm64)

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork/selftest"
)

// shape is the work of a template while it forks.
type shape struct {
	name  string
	procs int // GOMAXPROCS; 0 is the default
	depth int // nested forks below the first
	busy  bool
	storm bool // of signals
	exits bool // of threads
	asked bool // another process forks; it waits frozen for requests
	parts bool // requests come in parts
}

var shapes = []shape{
	{name: "quiet"},
	{name: "busy", busy: true},
	{name: "nested", depth: 3},
	{name: "procs-1", procs: 1, busy: true},
	{name: "procs-2", procs: 2, busy: true},
	{name: "procs-8", procs: 8, busy: true},
	{name: "storm", busy: true, storm: true},
	{name: "exits", exits: true},
	{name: "asked", asked: true},
	{name: "asked-busy", asked: true, busy: true},
	{name: "asked-procs-1", asked: true, procs: 1, busy: true},
	{name: "asked-procs-2", asked: true, procs: 2, busy: true},
	{name: "asked-procs-8", asked: true, procs: 8, busy: true},
	{name: "asked-storm", asked: true, storm: true},
	{name: "asked-parts", asked: true, parts: true},
}

// template forks, and writes its reports to stdout.
func template(job string) {
	var name string
	var n int
	fmt.Sscanf(job, "%s %d", &name, &n)
	s := shapes[slices.IndexFunc(shapes, func(s shape) bool { return s.name == name })]
	f, err := refork.Prepare()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var asking *asker
	if s.asked {
		if asking, err = startServer(f, s); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	} else {
		beginWork(s)
	}
	conn, err := selftest.Echo()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}

	out := json.NewEncoder(os.Stdout)
	part := tally{Storm: os.Getpid()}
	if asking != nil {
		part.Storm = asking.server
	}
	out.Encode(part) // ready, so the storm can begin
	part = tally{}
	var draws []uint64
	retries := 0
	reported := time.Now()
	for i := range n {
		draws = append(draws, rand.Uint64())
		var o selftest.Outcome
		if asking != nil {
			o = asking.fork(n - i)
		} else {
			o = selftest.Fork(f, s.depth, 0)
		}
		draws = append(draws, o.Draws...)
		part.Forks++
		part.Call = append(part.Call, o.Call)
		part.Hello = append(part.Hello, o.Hello)
		switch o.Failure {
		case "":
		case "refused":
			part.Refused++
		case "hang":
			part.Hangs++
		case "crash":
			part.Crashes++
		default:
			part.Wrong++
		}
		if o.Failure != "" {
			part.Failures = append(part.Failures,
				fmt.Sprintf("fork %d: %s: %s", i, o.Failure, o.Detail))
		}
		if err := conn.Check(); err != nil {
			part.Wrong++
			part.Failures = append(part.Failures,
				fmt.Sprintf("fork %d: the template's own socket: %v", i, err))
		}
		if i == n-1 {
			slices.Sort(draws)
			if twice := len(draws) - len(slices.Compact(draws)); twice > 0 {
				part.Wrong++
				part.Failures = append(part.Failures,
					fmt.Sprintf("%d random numbers were drawn twice", twice))
			}
		}
		if time.Since(reported) > time.Second || i == n-1 {
			stats := f.Stats()
			if asking != nil {
				stats = asking.stats
				part.Stopped, asking.stopped = asking.stopped, 0
			}
			part.Retries, retries = stats.Retries-retries, stats.Retries
			part.Threads = stats.Threads
			if err := out.Encode(part); err != nil {
				os.Exit(1)
			}
			part, reported = tally{}, time.Now()
		}
	}
}

// beginWork starts the work of a shape besides forks.
func beginWork(s shape) {
	if s.storm {
		c := make(chan os.Signal, 100)
		signal.Notify(c, syscall.SIGUSR1, syscall.SIGURG, syscall.SIGWINCH)
		go func() {
			for range c {
			}
		}()
	}
	if s.busy {
		keepBusy()
	}
	if s.exits {
		for range 2 {
			go exits()
		}
	}
}

// keepBusy starts goroutines: they allocate, collect garbage, use tickers, and
// send over sockets. They run in the children too.
func keepBusy() {
	for range 2 {
		go func() {
			var keep [][]byte
			for i := 0; ; i++ {
				keep = append(keep[:len(keep)%200], make([]byte, 100+i%2000))
				if i%500 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		}()
	}
	go func() {
		for {
			runtime.GC()
			time.Sleep(3 * time.Millisecond)
		}
	}()
	for range 3 {
		go func() {
			for range time.Tick(200 * time.Microsecond) {
			}
		}()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return // there is no network; the rest is enough
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return // in a child, where the socket is dead
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	for range 2 {
		go func() {
			for {
				c, err := net.Dial("tcp", listener.Addr().String())
				if err != nil {
					return
				}
				buf := []byte(strings.Repeat("x", 100))
				for range 1000 {
					if _, err := c.Write(buf); err != nil {
						c.Close()
						return
					}
					if _, err := io.ReadFull(c, buf); err != nil {
						c.Close()
						return
					}
					time.Sleep(100 * time.Microsecond)
				}
				c.Close()
			}
		}()
	}
}

// exits ends threads. A goroutine that ends while locked to a thread ends it.
func exits() {
	for {
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(done)
		}()
		<-done
		time.Sleep(100 * time.Microsecond)
	}
}

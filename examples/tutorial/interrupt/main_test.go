package main

import (
	"errors"
	"syscall"
	"testing"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

var workerEntry = spawntest.Func(worker) // children of the tests can run it

func TestMain(m *testing.M) { spawntest.Main(m) }

func TestWorker_CountsPrimes(t *testing.T) {
	spawntest.NoLeaks(t) // fails if a process, goroutine or descriptor is left
	conn := call.New(spawntest.Spawn(t, workerEntry), nil)
	defer conn.Close()
	count, err := countPrimes.Call(t.Context(), conn, 100)
	if err != nil || count != 25 {
		t.Fatal(count, err)
	}
}

func TestWorker_DeathIsReported(t *testing.T) {
	spawntest.NoLeaks(t)
	child := spawntest.Spawn(t, workerEntry)
	conn := call.New(child, nil)
	defer conn.Close()
	child.Signal(syscall.SIGKILL)
	_, err := countPrimes.Call(t.Context(), conn, 100_000_000)
	var exit *forkspawn.ExitError
	if !errors.As(err, &exit) || exit.Status.Signal() != syscall.SIGKILL {
		t.Fatal(err)
	}
}

// Package testkit has helpers for the tests of every package of this module:
// bounds, waits, pairs of connections, helper programs, child processes.
//
// It imports no package of this module, so a test inside any package can use
// it. Helpers that need transport.Addr or a transport are in package nettest.
package testkit

import (
	"context"
	"os"
	"testing"
	"time"
)

// Patience bounds every wait for an event. It only finds hangs: a machine with
// a load of ten per CPU must not reach it.
const Patience = 2 * time.Minute

// LongEnv is the environment variable of Long.
const LongEnv = "SPAWNWIRE_LONG"

// Long skips the test unless SPAWNWIRE_LONG=1 is set. It is for soaks, large
// tables, floods and thousands of processes.
func Long(t testing.TB) {
	t.Helper()
	if !IsLong() {
		t.Skipf("takes long: run it with %s=1 go test -run '^%s$'", LongEnv, t.Name())
	}
}

// IsLong reports whether SPAWNWIRE_LONG=1 is set, for tests that do less by
// default instead of nothing.
func IsLong() bool { return os.Getenv(LongEnv) == "1" }

// Context returns a context that ends after Patience, or with the test's
// cleanup.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Eventually waits until cond returns true, by calling it again and again from
// the test's goroutine. After Patience it ends the test, and reports the
// event as the argument what describes it.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	began := time.Now()
	for pause := time.Millisecond; !cond(); pause = min(2*pause, 20*time.Millisecond) {
		if time.Since(began) > Patience {
			t.Fatalf("waited %v for this: %s", Patience, what)
		}
		time.Sleep(pause)
	}
}

// Background runs f in a goroutine. The returned function waits for its
// result, and ends the test after Patience.
func Background[T any](t testing.TB, f func() T) (wait func() T) {
	done := make(chan T, 1)
	go func() { done <- f() }()
	return func() T {
		t.Helper()
		return Receive(t, done)
	}
}

// Receive returns the next value of a Go channel. It ends the test when there
// is none within Patience.
func Receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Patience):
		t.Fatalf("nothing was received for %v", Patience)
		panic("unreachable")
	}
}

// Second returns its second argument: the error of a call with two results.
func Second[T any](_ T, err error) error { return err }

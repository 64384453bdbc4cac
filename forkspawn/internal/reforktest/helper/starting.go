//go:build linux && (amd64 || arm64)

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
)

func init() { scenarios["starting-thread"] = startingThread }

// They compute with value in one place until release is not zero.

func holdInFirst(value uint64, release *uint32)
func holdInSecond(value uint64, release *uint32)
func holdOnStack(value uint64, release *uint32)

// startingThread forks while a thread holds its id in each place of runtime.minit, which
// writes it to the thread's record. In the child the id would be another one.
func startingThread(f *refork.Forker) error {
	// a collection would wait for the thread
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for i, hold := range []func(uint64, *uint32){holdInFirst, holdInSecond, holdOnStack} {
		var release uint32
		begun, ended := make(chan struct{}), make(chan struct{})
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			tid := uint64(syscall.Gettid())
			close(begun)
			hold(tid, &release)
			close(ended)
		}()
		<-begun
		err := refused(f, "is about to note its id", "")
		atomic.StoreUint32(&release, 1)
		<-ended
		if err != nil {
			return fmt.Errorf("place %d: %w", i, err)
		}
	}
	return healthy(f)
}

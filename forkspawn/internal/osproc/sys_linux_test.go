package osproc

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A program may have gone to another thread by the time when it calls Init.
func TestInit_NamesTheProcessFromAnyThread(t *testing.T) {
	const comm = "/proc/self/comm"
	name, err := os.ReadFile(comm)
	require.NoError(t, err)
	defer func() { assert.NoError(t, os.WriteFile(comm, name, 0)) }()
	var named sync.WaitGroup
	defer named.Wait()
	done := make(chan struct{})
	defer close(done)
	for range 3 { // of which one at most is the first
		require.NoError(t, os.WriteFile(comm, []byte("exe"), 0))
		thread := make(chan int)
		named.Go(func() {
			runtime.LockOSThread() // until all are named: so each has a thread of its own
			defer runtime.UnlockOSThread()
			NameProcess()
			thread <- unix.Gettid()
			<-done
		})
		t.Log("named by thread", <-thread, "of process", os.Getpid())
		got, err := os.ReadFile(comm)
		require.NoError(t, err)
		assert.Equal(t, filepath.Base(os.Args[0])[:min(15, len(filepath.Base(os.Args[0])))],
			strings.TrimSpace(string(got)))
	}
}

//go:build amd64 || arm64

package forkspawn_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

const tableMiB = 64

// tables are the results of the warm-ups "nodes" and "flat".
var tables struct {
	nodes []*tableNode
	flat  []byte
}

type tableNode struct {
	next *tableNode
	_    [7]uint64
}

func init() {
	forkspawn.RegisterWarmUp("nodes", func() error {
		for i := range tableMiB << 20 / 64 {
			n := new(tableNode)
			if i > 0 {
				n.next = tables.nodes[i/2]
			}
			tables.nodes = append(tables.nodes, n)
		}
		return nil
	})
	forkspawn.RegisterWarmUp("flat", func() error {
		tables.flat = make([]byte, tableMiB<<20)
		for i := range tables.flat {
			tables.flat[i] = byte(i)
		}
		return nil
	})
	moreEntries["collect"] = func(ctx context.Context, p *forkspawn.Parent) error {
		debug.SetGCPercent(-1)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		report := []int{int(m.HeapAlloc >> 10), privateDirty()}
		for range 2 {
			runtime.GC()
			report = append(report, privateDirty())
		}
		runtime.KeepAlive(tables.nodes)
		return p.Send(ctx, report)
	}
}

// privateDirty returns the memory of this process, in KiB, that it has written
// to and does not share.
func privateDirty() (kib int) {
	rollup, _ := os.ReadFile("/proc/self/smaps_rollup")
	for line := range strings.Lines(string(rollup)) {
		fmt.Sscanf(line, "Private_Dirty: %d", &kib)
	}
	return kib
}

// The test prints how much of the template's memory a child no longer shares
// after a collection:
//
//	CGO_ENABLED=0 go test -count=1 -v -run TestForked_MemorySharedAfterACollection ./forkspawn
func TestForked_MemorySharedAfterACollection(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	private := map[string]int{}
	for _, warmUp := range []string{"nodes", "flat"} {
		s := forking(t, func(cfg *forkspawn.Config) { cfg.WarmUp = warmUp })
		require.NoError(t, s.AwaitTemplate(testkit.Context(t)))
		var kib []int
		c := spawn(t, s, spawnspec.Spec{Entry: "collect"})
		require.NoError(t, c.Recv(testkit.Context(t), &kib))
		t.Logf("%s: of a heap of %d MiB a child has %.1f MiB for itself; after a collection %.1f MiB, after two %.1f MiB",
			warmUp, kib[0]>>10, float64(kib[1])/1024, float64(kib[2])/1024, float64(kib[3])/1024)
		assert.Less(t, kib[1], tableMiB<<10/8, "before it collects")
		private[warmUp] = kib[2]
	}
	assert.Less(t, private["flat"], tableMiB<<10/8, "a table without pointers stays shared")
	assert.Greater(t, private["nodes"], private["flat"])
}

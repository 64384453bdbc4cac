package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
)

func TestSpawnbench_RowPerCombination(t *testing.T) {
	methods := []string{"exec"}
	switch {
	case runtime.GOOS == "windows":
		t.Skip("no processes can be spawned on Windows")
	case runtime.GOOS == "linux" && runtime.GOARCH == "amd64":
		methods = append(methods, "forkserver")
	}
	exe := filepath.Join(t.TempDir(), "spawnbench")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // only has to find hangs
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", exe, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	args := []string{"-json", "-n", "3", "-warmup", "0", "-transport", "uds", "-spares", "1",
		"-init", "0,30ms", "-heap", "1M"}
	args = append(args, "-method", strings.Join(methods, ","))
	out, err = exec.CommandContext(ctx, exe, args...).Output()
	require.NoError(t, err, "%s", out)
	var got []result
	require.NoError(t, json.Unmarshal(out, &got))

	want := kinds(methodsOf(strings.Join(methods, ",")), 1, []int{1 << 20},
		[]time.Duration{0, 30 * time.Millisecond})
	require.Len(t, got, len(want))
	for i, r := range got {
		assert.Equal(t, want[i],
			kind{r.Method, r.Spares, r.Heap, time.Duration(r.InitMS) * time.Millisecond})
		assert.Equal(t, 3, r.N)
		assert.Positive(t, r.ToExec)
		if r.Method == forkspawn.MethodExec && r.Spares == 0 {
			assert.Equal(t, 1.0, r.ToExec)
			if runtime.GOOS == "linux" { // elsewhere the init phase is unknown
				assert.GreaterOrEqual(t, r.Phases["init"], r.InitMS*1000)
			}
		}
	}
}

func TestSpawnbench_OnlyTemplatesHaveHeap(t *testing.T) {
	assert.Equal(t, []kind{
		{"exec", 0, 0, 0}, {"exec", 4, 0, 0},
		{"forkserver", 0, 1, 0}, {"forkserver", 4, 1, 0}, {"forkserver", 0, 2, 0},
		{"forkserver", 4, 2, 0},
	}, kinds([]forkspawn.Method{"exec", "forkserver"}, 4, []int{1, 2}, []time.Duration{0}))
	assert.Equal(t, []kind{{"exec", 0, 0, 0}, {"exec", 0, 0, 1}},
		kinds([]forkspawn.Method{"exec"}, 0, []int{0}, []time.Duration{0, 1}))
}

func TestSpawnbench_Flags(t *testing.T) {
	var s sizes
	require.NoError(t, s.Set("0,5,64K,1M,100M,1G,1025K"))
	assert.Equal(t, sizes{0, 5, 64 << 10, 1 << 20, 100 << 20, 1 << 30, 1025 << 10}, s)
	assert.Equal(t, "0,5,64K,1M,100M,1G,1025K", s.String())
	for _, bad := range []string{"", "M", "1T", "-1", "1.5M", "1M,", "1MM", "9999999999"} {
		assert.Error(t, s.Set(bad), "%q", bad)
	}
	var d durations
	require.NoError(t, d.Set("0,50ms"))
	assert.Equal(t, durations{0, 50 * time.Millisecond}, d)
	for _, bad := range []string{"", "50", "-1ms", "1ms,"} {
		assert.Error(t, d.Set(bad), "%q", bad)
	}
}

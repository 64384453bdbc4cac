package main

import (
	"encoding/json"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

// methods returns the start methods of this platform.
func methods(t testing.TB) string {
	switch {
	case runtime.GOOS == "windows":
		t.Skip("no processes can be spawned on Windows")
	case testkit.CanFork:
		return "exec,forkserver"
	}
	return "exec"
}

// bench builds the program, runs it and decodes its output.
func bench(t testing.TB, into any, args ...string) {
	t.Helper()
	exe := testkit.Build(t, "CGO_ENABLED=0", ".")
	out, err := exec.CommandContext(testkit.Context(t), exe, append(args, "-json")...).Output()
	require.NoError(t, err, "%s", out)
	require.NoError(t, json.Unmarshal(out, into))
}

func TestSpawnbench_RowPerCombination(t *testing.T) {
	methods := methods(t)
	var got []result
	bench(t, &got, "-n", "3", "-warmup", "0", "-transport", "uds", "-spares", "1",
		"-init", "0,30ms", "-heap", "1M", "-method", methods)

	want := kinds(methodsOf(methods), 1, []int{1 << 20},
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

func TestSpawnbench_Burst(t *testing.T) {
	testkit.NeedLinux(t)
	methods := methods(t)
	var got []burst
	bench(t, &got, "-burst", "3", "-at-once", "2", "-rounds", "2", "-spares", "1",
		"-method", methods)
	var names []string
	for _, b := range got {
		if b.Spares == 0 {
			names = append(names, b.Method)
		}
		assert.Equal(t, []int{3, 2, 2}, []int{b.Children, b.AtOnce, b.Rounds})
		assert.Positive(t, b.UpMS)
		assert.Positive(t, b.CPUMS)
	}
	assert.Equal(t, 1.0, got[0].CPUToExec)
	if _, err := exec.LookPath("cc"); err == nil {
		methods += ",fork in C"
	}
	assert.Equal(t, strings.Split(methods, ","), names)
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

package archtest

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the rules of depguard into .golangci.yml")

// root is the folder of the module, seen from this package's tests.
const root = "../.."

func packages(t *testing.T) []Package {
	t.Helper()
	all, err := Packages(root)
	require.NoError(t, err)
	require.Greater(t, len(all), 10, "too few packages: is this the root of the module?")
	return all
}

func TestFloors_EveryImportGoesDown(t *testing.T) {
	for _, fault := range Check(Floors, TestOnly, packages(t)) {
		t.Error(fault)
	}
}

// The graph is made up: each fault that Check finds is in it once.
func TestFloors_CheckFindsEachFault(t *testing.T) {
	floors := [][]string{0: {"clock", "codec"}, 1: {"channel"}, 2: {"process", "kit"}}
	sound := []Package{
		{Path: "clock"},
		{Path: "codec"},
		{Path: "channel", Imports: []string{"clock", "codec"}},
		{Path: "process", Imports: []string{"channel"}},
		{Path: "kit", Imports: []string{"channel"}},
	}
	require.Empty(t, Check(floors, []string{"kit"}, sound))

	for _, c := range []struct {
		name  string
		added Package
		want  string
	}{
		{"Upward", Package{Path: "codec", Imports: []string{"process"}},
			"codec (floor 0) imports process (floor 2): upward"},
		{"Sideways", Package{Path: "clock", Imports: []string{"codec"}},
			"clock imports codec, and both stand on floor 0: sideways"},
		{"NoFloor", Package{Path: "attic", Imports: []string{"clock"}},
			"attic stands on no floor: add it to Floors in internal/archtest/floors.go"},
		{"ImportOfNoFloor", Package{Path: "channel", Imports: []string{"attic"}},
			"channel imports attic, and attic stands on no floor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := append(slices.Clone(sound), c.added)
			assert.Equal(t, []string{c.want}, Check(floors, nil, all))
		})
	}
	bench := Package{Path: "bench", Imports: []string{"kit"}}
	assert.Equal(t, []string{"bench imports kit outside its tests, and kit is for tests only"},
		Check(slices.Concat(floors, [][]string{{"bench"}}), []string{"kit"}, []Package{bench}))
	assert.Equal(t, []string{"clock stands on floor 0 and on floor 3"},
		Check(slices.Concat(floors, [][]string{{"clock"}}), nil, nil))
}

// The folder is made up too: its upward import is in a file of one platform.
func TestFloors_ImportsOfAllPlatformsAreRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	write("go.mod", "module "+Module+"\n")
	write("low/low.go", "package low\n")
	write("low/low_windows.go", "package low\n\nimport _ \""+Module+"/high\"\n")
	write("low/low_test.go", "package low\n\nimport _ \""+Module+"/other\"\n")
	write("high/high.go", "//go:build never\n\npackage high\n")
	write("high/testdata/x.go", "package x\n")
	write("other/go.mod", "module other\n")
	write("other/other.go", "package other\n")

	all, err := Packages(dir)
	require.NoError(t, err)
	require.Len(t, all, 2)
	assert.Equal(t, []string{"low (floor 0) imports high (floor 1): upward"},
		Check([][]string{{"low"}, {"high"}}, nil, all))
}

// The rules of depguard stand between two comments of .golangci.yml.
func TestFloors_DepguardHasTheSame(t *testing.T) {
	const begin = "        # Begin of what -update writes.\n"
	const end = "        # End of what -update writes.\n"
	path := filepath.Join(root, ".golangci.yml")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(text), begin)
	require.True(t, ok, "%s has no line %q", path, begin)
	rules, tail, ok := strings.Cut(rest, end)
	require.True(t, ok, "%s has no line %q", path, end)
	want := Depguard(Floors, TestOnly)
	if *update && rules != want {
		require.NoError(t, os.WriteFile(path, []byte(head+begin+want+end+tail), 0o644))
		return
	}
	assert.Equal(t, want, rules, "run: go test ./internal/archtest -update")
}

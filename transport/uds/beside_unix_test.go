//go:build linux || darwin

package uds

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/transport"
)

func TestBesideIsInAPrivateDirectoryOnly(t *testing.T) {
	dir := mustNewDir(t)
	addr, ok := Beside(dir.Addr("s"), "t")
	require.True(t, ok)
	assert.Equal(t, dir.Addr("t"), addr)
	for _, target := range []string{"/tmp/x/s", "@name", "/tmp/spawnwire-/s", "/tmp/spawnwire-x/s", "/tmp/spawnwire-12345678901/s"} {
		_, ok := Beside(transport.Addr{Scheme: "uds", Target: target}, "t")
		assert.False(t, ok, target)
	}
	_, ok = Beside(transport.Addr{Scheme: "tcp", Target: "127.0.0.1:1"}, "t")
	assert.False(t, ok)
	_, ok = Beside(dir.Addr("s"), "../t")
	assert.False(t, ok)
}

func TestRemoveBesideLeavesLiveSocketsOfOthers(t *testing.T) {
	dir := mustNewDir(t)
	listen := func(name string) *Listener {
		l, err := Listen(context.Background(), dir.Addr(name))
		require.NoError(t, err)
		return l
	}
	stale := func(name string) { makeStale(t, filepath.Join(dir.Path(), name)) } // as a killed process leaves it
	own := listen("s")
	defer own.Close()
	stale("other-1")
	RemoveBeside(dir.Addr("s"), "child-")
	assert.FileExists(t, filepath.Join(dir.Path(), "other-1"), "the child left nothing: nobody was killed")
	stale("child-1")
	stale("child-2")
	RemoveBeside(dir.Addr("s"), "child-")
	for _, name := range []string{"child-1", "child-2", "other-1"} {
		assert.NoFileExists(t, filepath.Join(dir.Path(), name))
	}
	assert.FileExists(t, filepath.Join(dir.Path(), "s"))
	RemoveBeside(transport.Addr{Scheme: "uds", Target: filepath.Join(t.TempDir(), "s")}, "s")
}

//go:build linux

package ssh_test

import (
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/sshd"
	"github.com/spawnwire/spawnwire/launch/ssh"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// timeSpawn returns how long a child takes until it is ready, and ends it.
func timeSpawn(b *testing.B, s *forkspawn.Spawner, h *ssh.Host) time.Duration {
	began := time.Now()
	c := spawn(b, s, h, spawnspec.Spec{Entry: "echo"})
	took := time.Since(began)
	_, err := c.Stop(testkit.Context(b))
	require.NoError(b, err)
	return took
}

// median returns the median of times.
func median(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[len(times)/2])
}

// bareHost is newHost with an empty home directory, because shells can read files there
// for seconds.
func bareHost(b *testing.B) (*sshd.Server, *ssh.Host) {
	testkit.NeedRoot(b)
	server := sshd.NewAt(b, "127.0.0.1", []string{"unshare", "--mount", "sh", "-c",
		`mount -t tmpfs tmpfs "$HOME" && exec "$@"`, "sh"})
	return server, &ssh.Host{Name: sshd.Name, Command: server.Command,
		CacheDir: b.TempDir() + "/cache"}
}

// BenchmarkStart starts one child, in turns with the floor: ssh(1) runs true(1). It does
// so through a shared connection, and without one.
//
//	go test -run '^$' -bench Start$ -benchtime 40x ./launch/ssh
func BenchmarkStart(b *testing.B) {
	server, h := bareHost(b)
	shared := &ssh.Host{Name: h.Name, CacheDir: h.CacheDir, Command: server.Share(b)}
	s := spawntest.NewSpawner(b, forkspawn.Config{})
	for _, bench := range []struct {
		name string
		host *ssh.Host
	}{{"shared", shared}, {"alone", h}} {
		b.Run(bench.name, func(b *testing.B) {
			h := bench.host
			timeSpawn(b, s, h) // fills the cache
			var starts, floors []time.Duration
			for range b.N {
				time.Sleep(settle)
				starts = append(starts, timeSpawn(b, s, h))
				time.Sleep(settle)
				cmd := exec.Command(h.Command[0], append(h.Command[1:], sshd.Name, "true")...)
				began := time.Now()
				require.NoError(b, cmd.Run())
				floors = append(floors, time.Since(began))
			}
			b.ReportMetric(0, "ns/op") // hides ns/op, which would add all of them
			b.ReportMetric(median(starts)/1e6, "ready-p50-ms")
			b.ReportMetric(median(floors)/1e6, "floor-p50-ms")
			b.ReportMetric(median(starts)/median(floors), "x/floor")
		})
	}
}

// settle is how long a benchmark sleeps before each start.
const settle = 10 * time.Millisecond

// BenchmarkManyStarts starts 32 children on 8 hosts at once, in turns with one.
//
//	go test -run '^$' -bench ManyStarts -benchtime 5x ./launch/ssh
func BenchmarkManyStarts(b *testing.B) {
	const hosts, count = 8, 32
	s := spawntest.NewSpawner(b, forkspawn.Config{})
	all := make([]*ssh.Host, hosts)
	for i := range all {
		_, all[i] = bareHost(b)
		all[i].CacheDir = all[0].CacheDir
		timeSpawn(b, s, all[i])
	}
	var many, one []time.Duration
	for range b.N {
		time.Sleep(settle)
		one = append(one, timeSpawn(b, s, all[0]))
		time.Sleep(settle)
		children := make([]*forkspawn.Child, count)
		var starts sync.WaitGroup
		began := time.Now()
		for i := range children {
			starts.Go(func() {
				var err error
				children[i], err = s.Spawn(testkit.Context(b), spawnspec.Spec{Entry: "echo"},
					on(all[i%hosts]))
				assert.NoError(b, err)
			})
		}
		starts.Wait()
		many = append(many, time.Since(began))
		require.False(b, b.Failed())
		for _, c := range children {
			_, err := c.Kill()
			require.NoError(b, err)
		}
	}
	b.ReportMetric(0, "ns/op") // hides ns/op, which would add all of them
	b.ReportMetric(median(many)/1e6, "many-p50-ms")
	b.ReportMetric(median(one)/1e6, "one-p50-ms")
	b.ReportMetric(median(many)/median(one), "x/one")
}

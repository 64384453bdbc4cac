package bench

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// BenchmarkSpawnFromSpare measures three things in turns: Spawn with a spare,
// Spawn with a new process, and one round trip over a plain net.Conn. A spare
// cannot be faster than the round trip. "x/exec" and "trip-x/exec" are the ratios
// of spare and round trip to the new process.
//
// Before each measurement all processes sleep for 5 ms, because a program that
// waits for work has idle processes too.
func BenchmarkSpawnFromSpare(b *testing.B) {
	for _, network := range []string{"uds", "tcp"} {
		b.Run(network, func(b *testing.B) {
			ctx := context.Background()
			spawn := func(spares int) func() time.Duration {
				s, err := forkspawn.New(forkspawn.Config{Listen: listen(network), Spares: spares})
				require.NoError(b, err)
				b.Cleanup(func() { s.Close() })
				return func() time.Duration {
					require.NoError(b, s.AwaitSpares(ctx))
					time.Sleep(5 * time.Millisecond)
					start := time.Now()
					c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "wait"})
					took := time.Since(start)
					require.NoError(b, err)
					_, err = c.Stop(ctx)
					require.NoError(b, err)
					return took
				}
			}
			_, plain := trips(b, network, false, 128)
			trip := func() time.Duration {
				time.Sleep(5 * time.Millisecond)
				return turn(b, plain, 1)
			}
			turns := []func() time.Duration{spawn(4), spawn(0), trip}
			var took [3][]float64
			for i := range b.N + 1 {
				for j := range turns { // each goes first in its turn
					k := (i + j) % len(turns)
					if d := turns[k](); i > 0 {
						took[k] = append(took[k], float64(d))
					}
				}
			}
			spare, exec, least := median(took[0]), median(took[1]), median(took[2])
			b.ReportMetric(0, "ns/op") // hides ns/op, which would add all three
			b.ReportMetric(spare, "spare-ns")
			b.ReportMetric(exec, "exec-ns")
			b.ReportMetric(spare/exec, "x/exec")
			b.ReportMetric(least, "trip-ns")
			b.ReportMetric(least/exec, "trip-x/exec")
		})
	}
}

package bench

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// BenchmarkSpawnFromSpare measures the call of Spawn that takes a spare, beside two others, in turns: the call that starts a process,
// of which both are told as a part ("x/exec", "trip-x/exec"; of the medians), and one message there and back between two
// processes over a plain net.Conn, which is the least that a spare could take. This process and all others have slept for 5 ms
// before each, as those of a program that waits for work have.
func BenchmarkSpawnFromSpare(b *testing.B) {
	for _, network := range []string{"uds", "tcp"} {
		b.Run(network, func(b *testing.B) {
			ctx := context.Background()
			spawn := func(spares int) func() time.Duration {
				s, err := forkspawn.New(forkspawn.Config{Listen: listen(network), Spares: spares})
				require.NoError(b, err)
				b.Cleanup(func() { s.Close() })
				return func() time.Duration {
					require.NoError(b, s.Warm(ctx))
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
				for j := range turns { // none always goes first
					k := (i + j) % len(turns)
					if d := turns[k](); i > 0 {
						took[k] = append(took[k], float64(d))
					}
				}
			}
			spare, exec, least := median(took[0]), median(took[1]), median(took[2])
			b.ReportMetric(0, "ns/op") // of all three together it means nothing
			b.ReportMetric(spare, "spare-ns")
			b.ReportMetric(exec, "exec-ns")
			b.ReportMetric(spare/exec, "x/exec")
			b.ReportMetric(least, "trip-ns")
			b.ReportMetric(least/exec, "trip-x/exec")
		})
	}
}

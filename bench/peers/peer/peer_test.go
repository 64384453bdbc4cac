package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

func TestMain(m *testing.M) {
	Init()
	dir, err := os.MkdirTemp("", "peers-")
	if err == nil {
		err = CompileC(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "without the floor in C:", err)
	}
	defer os.RemoveAll(dir)
	spawntest.Main(m)
}

func opened(t *testing.T, p Peer, job Job) Worker {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	w, err := p.Open(ctx, job)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, w.Close()) })
	return w
}

// A few messages of each work that a competitor says it does. What is answered, and what the receiver reports, is checked by Run.
func TestEveryPeerDoesWhatItSays(t *testing.T) {
	jobs := []Job{
		{Work: RoundTrip, Size: MinSize}, {Work: RoundTrip, Size: 1 << 10}, {Work: RoundTrip, Size: 1 << 20},
		{Work: Stream, Size: MinSize}, {Work: Stream, Size: 64 << 10}, {Work: Senders, Size: 64},
		{Work: RoundTrip, Size: 64, Connections: 5},
	}
	for _, p := range All() {
		t.Run(strings.ReplaceAll(p.Name(), "/", "-"), func(t *testing.T) {
			spawntest.NoLeaks(t)
			done := 0
			for _, network := range []string{"unix", "tcp"} {
				for _, job := range jobs {
					job.Network = network
					grows := p.Name() == Floor || strings.HasPrefix(p.Name(), "spawnwire")
					if !p.Does(job) || job.Connections > 1 && !grows {
						continue
					}
					t.Run(fmt.Sprintf("%s, %d connections", job, max(1, job.Connections)), func(t *testing.T) {
						w := opened(t, p, job)
						for _, n := range []int{1, 30, 100} {
							took, err := w.Run(n)
							require.NoError(t, err)
							assert.Positive(t, took.Total)
							if job.Work == RoundTrip {
								assert.Len(t, took.Each, n)
							}
						}
					})
					done++
				}
			}
			if done == 0 {
				t.Skip("it does nothing here")
			}
		})
	}
}

// A hang is ended by Close, so it has to end a Run.
func TestCloseEndsARun(t *testing.T) {
	for _, p := range All() {
		for _, work := range []Work{RoundTrip, Stream, Senders} {
			job := Job{Work: work, Network: "unix", Size: 1 << 10}
			if !p.Does(job) {
				continue
			}
			t.Run(fmt.Sprintf("%s, %s", strings.ReplaceAll(p.Name(), "/", "-"), work), func(t *testing.T) {
				spawntest.NoLeaks(t)
				w := opened(t, p, job)
				_, err := w.Run(1)
				require.NoError(t, err)
				forever := 1_000_000_000
				if work == RoundTrip {
					forever = 10_000_000 // their times are kept
				}
				ended := make(chan error, 1)
				go func() {
					_, err := w.Run(forever)
					ended <- err
				}()
				time.Sleep(10 * time.Millisecond) // so that it is most likely under way; any other moment is good, too
				require.NoError(t, w.Close())
				select {
				case err := <-ended:
					assert.Error(t, err)
				case <-time.After(Patience):
					t.Fatal("it goes on")
				}
			})
		}
	}
}

func TestTheOtherProcessEndsWithItsParent(t *testing.T) {
	spawntest.NoLeaks(t)
	cmd, err := command(raw{}, Job{Work: RoundTrip, Network: "unix", Size: 32}, t.TempDir())
	require.NoError(t, err)
	for i, v := range cmd.Env {
		if strings.HasPrefix(v, serveEnv+"=") {
			cmd.Env[i] = strings.Replace(v, fmt.Sprintf(`"parent":%d`, os.Getpid()), `"parent":1`, 1) // which it is not
		}
	}
	require.NoError(t, cmd.Start())
	kill := time.AfterFunc(Patience, func() { cmd.Process.Kill() })
	defer kill.Stop()
	var ended *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &ended)
	assert.Equal(t, 125, ended.ExitCode())
}

func TestWrongAnswersAreFound(t *testing.T) {
	trip := func(answer func([]byte) []byte) error {
		w := &roundTrips{size: 64, trip: func(p []byte) ([]byte, error) { return answer(p), nil }}
		_, err := w.Run(3)
		return err
	}
	assert.NoError(t, trip(func(p []byte) []byte { return p }))
	assert.ErrorContains(t, trip(func(p []byte) []byte { return p[:63] }), "not what was sent")
	assert.ErrorContains(t, trip(func(p []byte) []byte { return make([]byte, 64) }), "not what was sent")

	send := func(deliver func(got *report, p []byte)) error {
		var got report
		w := &stream{
			job:  Job{Work: Stream, Size: 64},
			open: each(sendFunc(func(p []byte) error { deliver(&got, p); return nil })),
			report: func() (report, error) {
				r := got
				got = report{}
				return r, nil
			},
		}
		_, err := w.Run(10)
		return err
	}
	assert.NoError(t, send((*report).add))
	assert.ErrorContains(t, send(func(got *report, p []byte) {
		if number(p) != 7 {
			got.add(p)
		}
	}), "9 of 10", "lost")
	assert.ErrorContains(t, send(func(got *report, p []byte) {
		if number(p) == 7 {
			stamp(p, 6)
		}
		got.add(p)
	}), "checksum", "another one twice")
	assert.ErrorContains(t, send(func(got *report, p []byte) {
		p[63]++
		got.add(p)
	}), "checksum", "damaged")
}

func TestNamesAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range All() {
		assert.False(t, seen[p.Name()], p.Name())
		seen[p.Name()] = true
		found, err := Find(p.Name())
		assert.NoError(t, err)
		assert.Equal(t, p, found)
	}
	_, err := Find("nobody")
	assert.Error(t, err)
	assert.True(t, seen[Floor])
}

func TestStartSaysWhyTheOtherProcessIsNotThere(t *testing.T) {
	spawntest.NoLeaks(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err := start(ctx, raw{}, Job{Work: RoundTrip, Network: "unix", Size: 32})
	require.ErrorContains(t, err, "start of the other process")
}

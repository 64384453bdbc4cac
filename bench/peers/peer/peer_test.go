package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
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

// tested returns all competitors but shmipc, whose dispatcher outlives its sessions. The
// check for leaks would report it.
func tested() []Peer {
	return slices.DeleteFunc(All(), func(p Peer) bool { return p == shmipcPeer{} })
}

// Each competitor exchanges a few messages of each job that it supports. Run checks
// the answers and reports.
func TestPeer_DoesItsJobs(t *testing.T) {
	jobs := []Job{
		{Work: RoundTrip, Size: MinSize}, {Work: RoundTrip, Size: 1 << 10},
		{Work: RoundTrip, Size: 1 << 20},
		{Work: Stream, Size: MinSize}, {Work: Stream, Size: 64 << 10}, {Work: Senders, Size: 64},
		{Work: RoundTrip, Size: 64, Connections: 5}, {Work: Callers, Size: 64},
		{Work: Beside, Size: 32, Large: 256 << 10}, {Work: Unread, Size: 64}, {Work: Cancel, Size: 32},
	}
	for _, p := range tested() {
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
					t.Run(fmt.Sprintf("%s, %d connections", job, max(1, job.Connections)),
						func(t *testing.T) {
							w := opened(t, p, job)
							counts := []int{1, 30, 100}
							if job.HasAlone() { // a large message may hold up each
								counts = []int{1, 3}
							}
							for _, n := range counts {
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
				t.Skip("it does no job here")
			}
		})
	}
}

// Close must end a Run, because a hanging competitor is closed.
func TestPeer_CloseEndsRun(t *testing.T) {
	for _, p := range tested() {
		for _, work := range []Work{RoundTrip, Stream, Senders, Callers, Unread} {
			job := Job{Work: work, Network: "unix", Size: 1 << 10}
			if !p.Does(job) {
				continue
			}
			t.Run(fmt.Sprintf("%s, %s", strings.ReplaceAll(p.Name(), "/", "-"), work),
				func(t *testing.T) {
					spawntest.NoLeaks(t)
					w := opened(t, p, job)
					_, err := w.Run(1)
					require.NoError(t, err)
					forever := 1_000_000_000
					if work != Stream && work != Senders && work != Unread {
						forever = 10_000_000 // the time of each is kept
					}
					ended := make(chan error, 1)
					go func() {
						_, err := w.Run(forever)
						ended <- err
					}()
					// Most likely Run is busy then. Any other moment is valid too.
					time.Sleep(10 * time.Millisecond)
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

func TestPeer_ServerEndsWithParent(t *testing.T) {
	spawntest.NoLeaks(t)
	cmd, err := command(raw{}, Job{Work: RoundTrip, Network: "unix", Size: 32}, t.TempDir())
	require.NoError(t, err)
	for i, v := range cmd.Env {
		if strings.HasPrefix(v, serveEnv+"=") {
			// Not the parent of the process.
			cmd.Env[i] = strings.Replace(v, fmt.Sprintf(`"parent":%d`, os.Getpid()), `"parent":1`,
				1)
		}
	}
	require.NoError(t, cmd.Start())
	kill := time.AfterFunc(Patience, func() { cmd.Process.Kill() })
	defer kill.Stop()
	var ended *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &ended)
	assert.Equal(t, 125, ended.ExitCode())
}

func TestPeer_WrongAnswersAreFound(t *testing.T) {
	trip := func(answer func([]byte) []byte) error {
		w := &roundTrips{size: 64, trip: func(p []byte) ([]byte, error) { return answer(p), nil }}
		_, err := w.Run(3)
		return err
	}
	assert.NoError(t, trip(func(p []byte) []byte { return p }))
	assert.ErrorContains(t, trip(func(p []byte) []byte { return p[:63] }), "not what was sent")
	assert.ErrorContains(t, trip(func(p []byte) []byte { return make([]byte, 64) }),
		"not what was sent")

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

func TestPeer_NamesAreUnique(t *testing.T) {
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

func TestPeer_StartReportsFailure(t *testing.T) {
	spawntest.NoLeaks(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err := start(ctx, raw{}, Job{Work: RoundTrip, Network: "unix", Size: 32})
	require.ErrorContains(t, err, "start of the other process")
}

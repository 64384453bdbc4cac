//go:build unix

package live_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/live"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestActions_NeedAnAuthorizer(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	c := spawn(t, s, spawnspec.Spec{Name: "victim", Entry: "echo"})
	h := serve(t, s, live.Config{})
	for _, action := range []string{"stop", "restart"} {
		status, _ := h.do(http.MethodPost, "p/victim/"+action)
		assert.Equal(t, http.StatusForbidden, status)
	}
	h = serve(t, s, live.Config{Authorize: func(r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer good" {
			return errors.New("not you")
		}
		return nil
	}})
	assert.Contains(t, h.get(""), `aria-label="Stop victim"`)
	status, body := h.do(http.MethodPost, "p/victim/stop")
	assert.Equal(t, http.StatusForbidden, status)
	assert.Contains(t, body, "not you")
	good := []string{"Authorization", "Bearer good"}
	status, _ = h.do(http.MethodPost, "p/victim/stop",
		append(good, "Sec-Fetch-Site", "cross-site")...)
	assert.Equal(t, http.StatusForbidden, status)
	status, _ = h.do(http.MethodGet, "p/victim/stop", good...)
	assert.Equal(t, http.StatusMethodNotAllowed, status)
	status, _ = h.do(http.MethodPost, "p/victim/restart", good...)
	assert.Equal(t, http.StatusConflict, status, "no group runs it")
	status, _ = h.do(http.MethodPost, "p/nobody/stop", good...)
	assert.Equal(t, http.StatusNotFound, status)
	assert.NoError(t, c.Err())
	status, _ = h.do(http.MethodPost, "p/victim/stop", good...)
	assert.Equal(t, http.StatusSeeOther, status)
	select {
	case <-c.Exited():
	default:
		assert.Fail(t, "the child was not stopped")
	}
}

func TestActions_RestartAChildOfAGroup(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	// A group without restarts of its own.
	g, err := s.NewGroup(testkit.Context(t), forkspawn.GroupConfig{})
	require.NoError(t, err)
	started := make(chan int, 2)
	require.NoError(t, g.Go(spawnspec.Spec{Name: "service", Entry: "echo"},
		func(ctx context.Context, c *forkspawn.Child) error {
			started <- c.PID()
			<-ctx.Done()
			return ctx.Err()
		}))
	first := testkit.Receive(t, started)
	h := serve(t, s, live.Config{Authorize: func(*http.Request) error { return nil }})
	assert.Contains(t, h.get(""), `aria-label="Restart service"`)
	status, body := h.do(http.MethodPost, "p/"+strconv.Itoa(first)+"/restart")
	assert.Equal(t, http.StatusSeeOther, status, body)
	assert.NotEqual(t, first, testkit.Receive(t, started))
	testkit.Eventually(t, "the restart", func() bool {
		return named(h.tree())["service"].Restarts == 1
	})
	g.Cancel(nil)
	g.Wait()
}

func TestProfiles_OfDescendants(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	grow(t, s, roles.Tree{Levels: 2, Breadth: 1})
	h := serve(t, s, live.Config{})
	const gzip = "\x1f\x8b"
	for _, at := range []string{"p/root/pprof/heap", "p/n.0/pprof/goroutine", "p/n.0.0/pprof/heap",
		"p/n.0.0/pprof/profile?seconds=1"} {
		assert.Equal(t, gzip, h.get(at)[:2], at)
	}
	assert.Contains(t, h.get("p/n.0.0/pprof/"), "Profiles of n.0.0")
	status, body := h.do(http.MethodGet, "p/n.0/pprof/nonsense")
	assert.Equal(t, http.StatusBadGateway, status)
	assert.Contains(t, body, `no profile "nonsense"`)
	status, _ = h.do(http.MethodGet, "p/nobody/pprof/heap")
	assert.Equal(t, http.StatusNotFound, status)
}

// A child obeys also during a profile of minutes.
func TestProfile_DoesNotHoldUpACancel(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{StopGrace: testkit.Patience})
	c := spawn(t, s, spawnspec.Spec{Name: "profiled", Entry: "waits"})
	h := serve(t, s, live.Config{})
	profile := testkit.Background(t, func() int {
		status, _ := h.do(http.MethodGet, "p/profiled/pprof/profile?seconds=300")
		return status
	})
	time.Sleep(300 * time.Millisecond) // so that the profile has probably begun
	began := time.Now()
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Asked, result.By)
	t.Logf("stopped after %v", time.Since(began))
	assert.Equal(t, http.StatusBadGateway, profile())
}

func TestNotifyStacks_WritesOnASignal(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	spawn(t, s, spawnspec.Spec{Entry: "waits"})
	var out testkit.Output
	stop := live.NotifyStacks(s, &out, syscall.SIGUSR1)
	defer stop()
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	testkit.Eventually(t, "the stacks", func() bool { return out.String() != "" })
	stop() // waits for the rest of the output
	assert.Contains(t, out.String(), "2 processes: ")
	assert.Contains(t, out.String(), "forkspawn.Init(...)", "a function of the child")
	stop()
}

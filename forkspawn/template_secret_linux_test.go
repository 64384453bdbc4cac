//go:build amd64 || arm64

package forkspawn_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// memoryHas counts a text in all writable memory of another process.
func memoryHas(t testing.TB, pid int, text string) (n int) {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if os.IsPermission(err) {
		t.Skip(err) // Yama's ptrace_scope
	}
	require.NoError(t, err)
	defer mem.Close()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	require.NoError(t, err)
	b := make([]byte, 1<<20)
	lines := bufio.NewScanner(bytes.NewReader(maps))
	for lines.Scan() {
		var from, to int64
		var perm string
		if got, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &perm); got != 3 ||
			!strings.HasPrefix(perm, "rw") {
			continue
		}
		for at := from; at < to; {
			got, err := unix.Pread(int(mem.Fd()), b[:min(int64(len(b)), to-at)], at)
			require.NoError(t, err, lines.Text())
			n += bytes.Count(b[:got], []byte(text))
			if at += int64(got); at < to {
				at -= int64(len(text) - 1)
			}
		}
	}
	return n
}

// The secrets of one child must not be in the memory of the template or of
// later children. A child begins with all of the template's memory, also the
// freed part. An armed template forks some of the children, a running one the
// others.
func TestForked_SecretsStayInTheirChild(t *testing.T) {
	needForks(t)
	s := forking(t)
	_, first := spawnWarm(t, s)
	var told []string
	// one size is larger than the template's buffer
	for i, size := range []int{0, 1000, 500, 2000, 40_000, 3000, 1000} {
		if i == 2 || i == 5 {
			disarm(t, first.Template)
		} else if i != 1 { // the second child finds the state that the first has left
			awaitArmed(t, first.Template)
		}
		secret := rand.Text()
		env := append(os.Environ(), "TOKEN="+secret, strings.Repeat("x", size)+"=1")
		c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm"},
			forkspawn.WithCommand(forkspawn.Command{Env: env}))
		require.NoError(t, err)
		assert.Positive(t, memoryHas(t, c.PID(), secret), "the search finds what is there")
		for _, earlier := range told {
			assert.Zero(t, memoryHas(t, c.PID(), earlier), "in child %d", i)
		}
		// the second text is the beginning of its ticket
		told = append(told, secret, "1 "+c.ID()+" ")
		for _, text := range told {
			assert.Zero(t, memoryHas(t, first.Template, text), "in the template after child %d", i)
		}
	}
}

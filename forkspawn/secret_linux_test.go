package forkspawn_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func init() { moreEntries["environs"] = environs }

// telling is a command that writes its ticket into a file and becomes a child of this program.
func telling(file string) forkspawn.Command {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return forkspawn.Command{Path: "sh", Args: []string{
		"-c", `printf %s "$SPAWNWIRE_TICKET" >"$0"; exec "$1"`, file, exe,
	}}
}

// mask hides what is looked for, in this process's memory, from the look itself.
const mask = 0xa5

// hidden is a secret under the mask, in the forms in which it may be found.
type hidden map[string][]byte

// readHidden reads the secret from the file that telling has written. scratch holds the file meanwhile.
func readHidden(t testing.TB, file string, scratch []byte) hidden {
	t.Helper()
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	n, err := unix.Read(fd, scratch)
	require.NoError(t, err)
	defer clear(scratch)
	line := scratch[:n]
	for range 2 { // "1 id secret address"
		_, line, _ = bytes.Cut(line, []byte{' '})
	}
	require.Greater(t, len(line), 64)
	h := hidden{"hexadecimal": make([]byte, 64), "raw": make([]byte, 32), "inner pad of HMAC": make([]byte, 32), "outer pad of HMAC": make([]byte, 32)}
	digit := func(c byte) byte { return c&0xf + c>>6*9 }
	for i, c := range line[:64] {
		h["hexadecimal"][i] = c ^ mask
	}
	for i := range 32 {
		b := digit(line[2*i])<<4 | digit(line[2*i+1])
		h["raw"][i], h["inner pad of HMAC"][i], h["outer pad of HMAC"][i] = b^mask, b^0x36^mask, b^0x5c^mask
	}
	return h
}

// search looks for a secret in all memory of this process that it can write, but for scratch, and returns how often each
// form is there.
func (h hidden) search(t testing.TB, scratch []byte) map[string]int {
	t.Helper()
	mem, err := os.Open("/proc/self/mem")
	require.NoError(t, err)
	defer mem.Close()
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	found := make(map[string]int)
	lines := bufio.NewScanner(bytes.NewReader(maps))
	searched := 0
	for lines.Scan() {
		var from, to uint64
		var perm string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &perm); n != 3 || !strings.HasPrefix(perm, "rw") {
			continue
		}
		if at := addressOf(scratch); from <= at && at < to {
			require.Equal(t, uint64(len(scratch)), to-from, "the scratch memory is a mapping of its own")
			continue
		}
		const overlap = 63
		for at := from; at < to; {
			b := scratch[:min(uint64(len(scratch)), to-at)]
			n, err := unix.Pread(int(mem.Fd()), b, int64(at))
			if n <= 0 {
				t.Logf("not searched: %s: %v", lines.Text(), err)
				break
			}
			for what, needle := range h {
				found[what] += count(b[:n], needle)
			}
			searched += n
			if at += uint64(n); at < to {
				at -= overlap
			}
		}
	}
	clear(scratch)
	t.Logf("searched %d MiB", searched>>20)
	for what, n := range found {
		if n == 0 {
			delete(found, what)
		}
	}
	return found
}

// count counts a masked needle.
func count(b, needle []byte) (n int) {
	first := needle[0] ^ mask
	for i := 0; ; i++ {
		next := bytes.IndexByte(b[i:], first)
		if i += next; next < 0 || i+len(needle) > len(b) {
			return n
		}
		j := 1
		for j < len(needle) && b[i+j] == needle[j]^mask {
			j++
		}
		if j == len(needle) {
			n++
		}
	}
}

func TestTheSpawnersMemoryHoldsNoUsedSecret(t *testing.T) {
	if raceDetector {
		t.Skip("its shadow memory cannot be searched")
	}
	scratch, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS) // shared, so that it is not merged with its neighbour
	require.NoError(t, err)
	defer unix.Munmap(scratch)
	networks(t, func(t *testing.T, listen transport.Addr) {
		file := filepath.Join(t.TempDir(), "spare")
		s := newSpawner(t, forkspawn.Config{Listen: listen, Spares: 1, Command: telling(file)})
		require.NoError(t, s.Warm(testContext(t)))
		h := readHidden(t, file, scratch)
		assert.Empty(t, h.search(t, scratch), "a spare's orders are sealed with what was made of it")
		require.True(t, spawn(t, s, spawnspec.Spec{Name: "x", Entry: "echo"}).Boot().Spare)
		assert.Empty(t, h.search(t, scratch))
	})
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		file := filepath.Join(t.TempDir(), "ticket")
		c, err := s.SpawnCommand(testContext(t), telling(file), spawnspec.Spec{Name: "x", Entry: "echo"})
		require.NoError(t, err)
		h := readHidden(t, file, scratch)
		found := h.search(t, scratch)
		assert.Empty(t, found)
		require.NoError(t, c.Send(testContext(t), "alive"))

		planted = make([]byte, 32) // to see that the search finds what is there
		for i := range planted {
			planted[i] = h["raw"][i] ^ mask
		}
		assert.Equal(t, 1, h.search(t, scratch)["raw"])
		clear(planted)
	})
}

var planted []byte

func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

// TestTheSecretIsNowhereElse starts a child with a secret that the test knows, and looks at all that others see of it.
func TestTheSecretIsNowhereElse(t *testing.T) {
	var log, shown bytes.Buffer
	var mu sync.Mutex // guards told and shown
	var told []string
	seen := func(v ...any) {
		mu.Lock()
		defer mu.Unlock()
		for _, v := range v {
			told = append(told, fmt.Sprintf("%v %+v %#v", v, v, v))
			if b, err := json.Marshal(v); err == nil {
				told = append(told, string(b))
			}
			slog.New(slog.NewJSONHandler(&shown, nil)).Info("it", "value", v)
		}
	}
	s := newSpawner(t, forkspawn.Config{
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Stderr: forkspawn.Capture(nil),
		Trace: &forkspawn.Trace{
			Started:    func(e forkspawn.ChildEvent) { seen(e) },
			Ready:      func(e forkspawn.ChildEvent, _ forkspawn.BootTimes) { seen(e) },
			BootFailed: func(e forkspawn.ChildEvent, err *forkspawn.BootError) { seen(e, err, *err) },
		},
	})
	secretIn := func(file string) string {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		fields := strings.Fields(string(b))
		require.Len(t, fields, 4)
		require.Len(t, fields[2], 64)
		return fields[2]
	}
	var secrets []string
	var child *forkspawn.Child
	file := filepath.Join(t.TempDir(), "ticket")

	t.Run("of a child that joins", func(t *testing.T) {
		c, err := s.SpawnCommand(testContext(t), telling(file), spawnspec.Spec{Name: "x", Entry: "environs"})
		require.NoError(t, err)
		secrets = append(secrets, secretIn(file))
		var environs []string // the child's own, and that of a child of its
		require.NoError(t, c.Recv(testContext(t), &environs))
		require.Len(t, environs, 2)
		told = append(told, environs...)
		for _, name := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", c.PID(), name))
			require.NoError(t, err)
			told = append(told, string(b))
			if name == "environ" {
				assert.NotContains(t, string(b), handshake.TicketEnv)
				assert.Contains(t, string(b), "PATH=", "the rest is as it was")
			}
		}
		child = c
		result, err := c.Stop(testContext(t))
		seen(result, err, c.StderrTail())
	})
	t.Run("of a child that fails", func(t *testing.T) {
		_, err := s.SpawnCommand(testContext(t), telling(file), spawnspec.Spec{Name: "x", Entry: "no such entry"})
		secrets = append(secrets, secretIn(file))
		var boot *forkspawn.BootError
		require.ErrorAs(t, err, &boot)
		seen(boot, *boot, boot.Stderr)
	})
	t.Run("of a program that cannot be started", func(t *testing.T) {
		_, err := s.SpawnCommand(testContext(t), forkspawn.Command{Path: "/no/such/program"}, spawnspec.Spec{Name: "x"})
		seen(err)
	})
	require.NoError(t, s.Close())
	seen(child, s) // now that nothing in them changes
	require.Len(t, secrets, 2)
	told = append(told, log.String(), shown.String())
	for _, secret := range secrets {
		raw, err := hex.DecodeString(secret)
		require.NoError(t, err)
		for _, form := range []string{secret[8:24], strings.ToUpper(secret[8:24]), string(raw[4:12]), strings.Trim(fmt.Sprint(raw[4:12]), "[]")} {
			for _, text := range told {
				assert.NotContains(t, text, form)
			}
		}
	}
}

// environs sends the environment that this process has, and that of a child of its.
func environs(ctx context.Context, p *forkspawn.Parent) error {
	theirs, err := exec.Command("env").Output()
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, os.Environ())
	return errors.Join(p.Send(ctx, []string{strings.Join(os.Environ(), "\n"), string(theirs)}), p.Recv(ctx, new(any)))
}

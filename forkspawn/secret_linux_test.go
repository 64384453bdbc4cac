package forkspawn_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// revealing is a command that writes its ticket into a file, and then becomes the
// test binary.
func revealing(file string) forkspawn.Command {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return forkspawn.Command{Path: "sh", Args: []string{
		"-c", `printf %s "$SPAWNWIRE_TICKET" >"$0"; exec "$1"`, file, exe,
	}}
}

// The test knows the secret of its child. The secret must not be visible to other
// processes, nor in values, errors and logs.
func TestSecret_IsNowhereElse(t *testing.T) {
	var log, shown bytes.Buffer
	var mu sync.Mutex // guards seen and shown
	var seen []string
	look := func(v ...any) {
		mu.Lock()
		defer mu.Unlock()
		for _, v := range v {
			seen = append(seen, fmt.Sprintf("%v %+v %#v", v, v, v))
			if b, err := json.Marshal(v); err == nil {
				seen = append(seen, string(b))
			}
			slog.New(slog.NewJSONHandler(&shown, nil)).Info("it", "value", v)
		}
	}
	s := newSpawner(t, forkspawn.Config{
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Stderr: forkspawn.Capture(nil),
		Trace: &forkspawn.Trace{
			Started: func(e forkspawn.ChildEvent) { look(e) },
			Ready:   func(e forkspawn.ChildEvent, _ forkspawn.BootTimes) { look(e) },
			BootFailed: func(e forkspawn.ChildEvent, err *forkspawn.BootError) {
				look(e, err, *err)
			},
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
		c, err := s.Spawn(testkit.Context(t),
			spawnspec.Spec{Name: "x", Entry: "reports-environment"},
			forkspawn.WithCommand(revealing(file)))
		require.NoError(t, err)
		secrets = append(secrets, secretIn(file))
		var environs []string // of the child, and of a child of its own
		require.NoError(t, c.Recv(testkit.Context(t), &environs))
		require.Len(t, environs, 2)
		seen = append(seen, environs...)
		for _, name := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", c.PID(), name))
			require.NoError(t, err)
			seen = append(seen, string(b))
			if name == "environ" {
				assert.NotContains(t, string(b), handshake.TicketEnv)
				assert.Contains(t, string(b), "PATH=", "the rest is as it was")
			}
		}
		child = c
		result, err := c.Stop(testkit.Context(t))
		look(result, err, c.StderrTail())
	})
	t.Run("of a child that fails", func(t *testing.T) {
		_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "x", Entry: "no such entry"},
			forkspawn.WithCommand(revealing(file)))
		secrets = append(secrets, secretIn(file))
		var boot *forkspawn.BootError
		require.ErrorAs(t, err, &boot)
		look(boot, *boot, boot.Stderr)
	})
	t.Run("of a program that cannot be started", func(t *testing.T) {
		_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "x"},
			forkspawn.WithCommand(forkspawn.Command{Path: "/no/such/program"}))
		look(err)
	})
	require.NoError(t, s.Close())
	look(child, s) // nothing in them changes any more
	require.Len(t, secrets, 2)
	seen = append(seen, log.String(), shown.String())
	for _, secret := range secrets {
		raw, err := hex.DecodeString(secret)
		require.NoError(t, err)
		for _, form := range []string{secret[8:24], strings.ToUpper(secret[8:24]),
			string(raw[4:12]), strings.Trim(fmt.Sprint(raw[4:12]), "[]")} {
			for _, text := range seen {
				assert.NotContains(t, text, form)
			}
		}
	}
}

func TestSecret_IsNotInTheCommandLine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	s := newSpawner(t, forkspawn.Config{})
	c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	cmdline, err := os.ReadFile("/proc/" + itoa(c.PID()) + "/cmdline")
	require.NoError(t, err)
	assert.NotContains(t, string(cmdline), "SPAWNWIRE")
	boot := spawnError(t, testkit.Context(t), s,
		sh(`echo "$SPAWNWIRE_TICKET" | cut -d" " -f1-2 >&2; exit 1`),
		spawnspec.Spec{Name: "teller"})
	assert.True(t, strings.HasPrefix(boot.Stderr, "1 "), "the ticket's form: version, id")
	assert.Contains(t, boot.Stderr, boot.ID)
}

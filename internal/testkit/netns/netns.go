//go:build linux

// Package netns makes network namespaces for tests: other machines, whose cable can be
// cut.
package netns

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// Machine is a network namespace with a cable to this one.
type Machine struct {
	// Name is the name of the namespace, for ip-netns(8).
	Name string
	// Addr is the address of the machine, and Here the one of this end of the cable.
	Addr, Here string
}

// made counts the machines, for their names.
var made atomic.Int64

// New makes a Machine. The test's cleanup removes it. Without root or ip(8) the test is
// skipped.
func New(t testing.TB) *Machine {
	t.Helper()
	testkit.NeedRoot(t)
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip is missing; install iproute2")
	}
	id := os.Getpid()%1000*8 + int(made.Add(1))%8
	net := fmt.Sprintf("10.%d.%d", 100+id/250, id%250)
	m := &Machine{Name: fmt.Sprintf("sw%d", id), Addr: net + ".2", Here: net + ".1"}
	if out, err := exec.Command("ip", "netns", "add", m.Name).CombinedOutput(); err != nil {
		t.Skipf("no network namespaces here: %s", out)
	}
	t.Cleanup(func() {
		exec.Command("ip", "link", "del", m.Name).Run()
		exec.Command("ip", "netns", "del", m.Name).Run()
	})
	run(t, "ip link add "+m.Name+" type veth peer name eth0 netns "+m.Name)
	run(t, "ip addr add "+m.Here+"/24 dev "+m.Name)
	run(t, "ip link set "+m.Name+" up")
	run(t, "ip -n "+m.Name+" link set lo up")
	run(t, "ip -n "+m.Name+" addr add "+m.Addr+"/24 dev eth0")
	m.Heal(t)
	return m
}

// Cut cuts the cable. Connections stay as they are.
func (m *Machine) Cut(t testing.TB) { run(t, "ip -n "+m.Name+" link set eth0 down") }

// Heal mends the cable.
func (m *Machine) Heal(t testing.TB) { run(t, "ip -n "+m.Name+" link set eth0 up") }

// Do calls f in the namespace. Sockets that it opens stay there.
func (m *Machine) Do(t testing.TB, f func()) {
	t.Helper()
	there, err := os.Open("/run/netns/" + m.Name)
	require.NoError(t, err)
	defer there.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	require.NoError(t, <-done)
}

func run(t testing.TB, line string) {
	t.Helper()
	words := strings.Fields(line)
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	require.NoError(t, err, "%s: %s", line, out)
}

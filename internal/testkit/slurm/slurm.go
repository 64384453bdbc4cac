//go:build linux

// Package slurm runs a Slurm cluster of its own for tests: a controller, and nodes that
// are all on this machine.
package slurm

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/netns"
)

// CPUs is how many processors each node has for jobs.
const CPUs = 4

// memory is what a job has for each processor, in MiB. A child of a test that is built
// with the race detector needs more than 100, and its supervisor as much.
const memory = 1000

// Cluster is a running Slurm. The environment variable SLURM_CONF names its
// configuration as long as the test runs.
type Cluster struct {
	// Dir has the configuration, the logs and all state.
	Dir string

	daemons map[string]*daemon
}

type daemon struct {
	cmd   *exec.Cmd
	ended func() error
	log   bytes.Buffer // complete after the end
}

// New starts a cluster with nodes h1, h2 and so on. The test's cleanup ends it. Without
// root or Slurm the test is skipped.
func New(t testing.TB, nodes int) *Cluster {
	t.Helper()
	return start(t, nodes, "127.0.0.1", "127.0.0.1")
}

// NewAt starts a cluster with one node, h1, on another machine. The controller and srun
// are here.
func NewAt(t testing.TB, m *netns.Machine) *Cluster {
	t.Helper()
	return start(t, 1, m.Here, m.Addr, "ip", "netns", "exec", m.Name)
}

// start starts a cluster. here and there are the addresses of the controller and of the
// nodes, and behind is a command that starts the nodes.
func start(t testing.TB, nodes int, here, there string, behind ...string) *Cluster {
	t.Helper()
	testkit.NeedRoot(t)
	for _, program := range []string{"srun", "slurmctld", "slurmd"} {
		if _, err := find(program); err != nil {
			t.Skipf("no %s on this machine; install slurmctld, slurmd and slurm-client", program)
		}
	}
	c := &Cluster{Dir: testkit.ShortDir(t), daemons: make(map[string]*daemon)}
	host, err := os.Hostname()
	require.NoError(t, err)
	lines := []string{"ClusterName=test", "SlurmctldHost=" + host + "(" + here + ")",
		"SlurmUser=root", "AuthType=auth/none", "CredType=cred/none",
		fmt.Sprintf("SlurmctldPort=%d", freePort(t)),
		"SlurmctldPidFile=" + c.Dir + "/ctld.pid", "SlurmdPidFile=" + c.Dir + "/%n.pid",
		"StateSaveLocation=" + c.Dir + "/state", "SlurmdSpoolDir=" + c.Dir + "/%n",
		"ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "SwitchType=switch/none",
		"MpiDefault=none", "SelectType=select/cons_tres", "SelectTypeParameters=CR_CPU_Memory",
		fmt.Sprintf("DefMemPerCPU=%d", memory),
		"SlurmdParameters=config_overrides", "ReturnToService=2", "SlurmdTimeout=5",
		"KillWait=2", "JobAcctGatherType=jobacct_gather/linux",
		"JobAcctGatherParams=OverMemoryKill", "JobAcctGatherFrequency=task=1"}
	for i := range nodes {
		lines = append(lines, fmt.Sprintf(
			"NodeName=h%d NodeHostname=%s NodeAddr=%s Port=%d CPUs=%d RealMemory=%d",
			i+1, host, there, freePort(t), CPUs, CPUs*memory))
	}
	lines = append(lines, "PartitionName=debug Nodes=ALL Default=YES State=UP MaxTime=60", "")
	testkit.WriteFile(t, filepath.Join(c.Dir, "state", "none"), "")
	testkit.WriteFile(t, filepath.Join(c.Dir, "cgroup.conf"), "CgroupPlugin=cgroup/v1\n")
	testkit.WriteFile(t, filepath.Join(c.Dir, "slurm.conf"), strings.Join(lines, "\n"))
	t.Setenv("SLURM_CONF", filepath.Join(c.Dir, "slurm.conf"))
	t.Cleanup(func() {
		for name := range c.daemons {
			c.Kill(name, syscall.SIGTERM)
		}
	})
	c.start(t, "ctld", nil, "slurmctld", "-D")
	for i := range nodes {
		name := fmt.Sprintf("h%d", i+1)
		c.start(t, name, behind, "slurmd", "-D", "-N", name)
	}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command("sinfo", "-h", "-N", "-t", "idle").CombinedOutput()
		if err == nil && strings.Count(string(out), "\n") == nodes {
			return c
		}
		if time.Since(began) > testkit.Patience {
			for name, d := range c.daemons {
				c.Kill(name, syscall.SIGKILL)
				out = append(out, d.log.String()...)
			}
			t.Skipf("Slurm does not work here: %s", out)
		}
	}
}

// find looks for a program in PATH and /usr/sbin.
func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + program)
}

func freePort(t testing.TB) int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

func (c *Cluster) start(t testing.TB, name string, behind []string, program string,
	args ...string) {
	path, err := find(program)
	require.NoError(t, err)
	args = slices.Concat(behind, []string{path}, args)
	d := &daemon{cmd: exec.Command(args[0], args[1:]...)}
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.cmd.WaitDelay = time.Second // steps keep the log open
	require.NoError(t, d.cmd.Start())
	d.ended = testkit.Background(t, d.cmd.Wait)
	c.daemons[name] = d
}

// Kill sends a signal to the daemon of a node, or of the controller, ctld, and waits for
// its end.
func (c *Cluster) Kill(name string, sig syscall.Signal) {
	if d := c.daemons[name]; d.cmd.Process.Signal(sig) == nil {
		d.ended()
	}
}

// Queue returns the jobs that are not over: a line with the id, the state and the name
// of each.
func (c *Cluster) Queue(t testing.TB) string { return c.Run(t, "squeue", "-h", "-o", "%i %T %j") }

// Run runs a command and returns its output.
func (c *Cluster) Run(t testing.TB, command ...string) string {
	t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// AwaitNone waits until no job is left.
func (c *Cluster) AwaitNone(t testing.TB) {
	t.Helper()
	testkit.Eventually(t, "no job is left", func() bool { return c.Queue(t) == "" })
}

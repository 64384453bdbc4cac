//go:build linux

// Package containers finds the engines for containers that work on this machine.
package containers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// Engine is an engine with a nearly empty file system for containers.
type Engine struct {
	Name    string
	Command []string // with its global options
	Image   string   // for podman and docker
	Bundle  string   // for runc and crun
	Options []string // for its run command
	Dir     string   // has all of its state
}

// New returns the engine of a name, with state of its own. The test's cleanup removes
// all of it. If the engine does not work here, the test is skipped. The containers have
// the libraries of this machine.
func New(t testing.TB, name string) *Engine {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("no %s on this machine", name)
	}
	e := &Engine{Name: name, Dir: testkit.ShortDir(t)}
	switch name {
	case "podman":
		e.podman(t)
	case "docker":
		e.docker(t)
	default:
		e.runtime(t)
	}
	e.try(t)
	return e
}

// nobody is the user and the group of NewRootless.
const nobody = 65534

// NewRootless returns podman as another user than root runs it. The test needs root to
// become that user.
func NewRootless(t testing.TB) *Engine {
	t.Helper()
	testkit.NeedRoot(t)
	for _, program := range []string{"podman", "setpriv"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s on this machine", program)
		}
	}
	dir, err := os.MkdirTemp("/tmp", "sw") // $TMPDIR of a test is root's alone
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chown(dir, nobody, nobody))
	e := &Engine{Name: "podman", Dir: dir}
	t.Cleanup(func() { e.run("system", "migrate") }) // ends the process with its namespaces
	e.podman(t, "setpriv", fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody),
		"--clear-groups", "env", "-C", e.Dir, "HOME="+e.Dir, "XDG_RUNTIME_DIR="+e.Dir,
		"TMPDIR="+e.Dir)
	e.try(t)
	return e
}

// libraries returns the directories that a test binary with cgo needs.
func libraries() (dirs []string) {
	for _, dir := range []string{"/bin", "/lib", "/lib64", "/usr/lib"} {
		if _, err := os.Stat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// podman keeps all of its state in the test's directory. behind is a command that runs
// podman.
func (e *Engine) podman(t testing.TB, behind ...string) {
	e.Command = append(behind, "podman", "--root", e.Dir+"/root", "--runroot", e.Dir+"/run",
		"--tmpdir", e.Dir+"/tmp", "--cgroup-manager=cgroupfs", "--events-backend=none",
		"--storage-driver=vfs")
	if _, err := exec.LookPath("runc"); err == nil {
		e.Command = append(e.Command, "--runtime=runc")
	}
	// Not every root may raise the limits, as podman does.
	e.Options = append(e.Options, "--ulimit=nofile=1024:1024",
		"--ulimit=nproc=1024:1024")
	e.image(t)
}

// docker uses the daemon that runs, or starts one.
func (e *Engine) docker(t testing.TB) {
	e.Command = []string{"docker"}
	if _, err := e.run("version"); err != nil {
		e.daemon(t, err)
	}
	e.image(t)
	t.Cleanup(func() { e.run("rmi", "--force", e.Image) })
}

func (e *Engine) daemon(t testing.TB, why error) {
	program, err := exec.LookPath("dockerd")
	if err != nil || os.Geteuid() != 0 {
		t.Skipf("docker has no daemon here: %v", why)
	}
	socket := "unix://" + e.Dir + "/s"
	var log bytes.Buffer
	cmd := exec.Command(program, "--host", socket, "--data-root", e.Dir+"/data",
		"--exec-root", e.Dir+"/exec", "--pidfile", e.Dir+"/pid", "--bridge=none",
		"--iptables=false", "--ip6tables=false", "--storage-driver=vfs")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = 10 * time.Second
	require.NoError(t, cmd.Start())
	ended := testkit.Background(t, cmd.Wait)
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		ended()
	})
	e.Command = []string{"docker", "--host", socket}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if _, err = e.run("version"); err == nil {
			return
		}
		if time.Since(began) > testkit.Patience || cmd.Process.Signal(syscall.Signal(0)) != nil {
			cmd.Process.Kill()
			ended()
			t.Skipf("dockerd does not work here: %s", log.String())
		}
	}
}

// image makes an image with nothing but directories.
func (e *Engine) image(t testing.TB) {
	rootfs := e.rootfs(t)
	tar := exec.Command("tar", "-C", rootfs, "-c", ".")
	e.Image = "spawnwire-test-" + filepath.Base(e.Dir)
	command := append(e.Command[1:len(e.Command):len(e.Command)], "import", "-", e.Image)
	load := exec.Command(e.Command[0], command...)
	var err error
	load.Stdin, err = tar.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, tar.Start())
	out, err := load.CombinedOutput()
	require.NoError(t, tar.Wait())
	if err != nil {
		t.Skipf("%s makes no image here: %s", e.Name, out)
	}
	e.Options = append(e.Options, "--network=none")
	for _, dir := range libraries() {
		e.Options = append(e.Options, "--volume="+dir+":"+dir+":ro")
	}
}

// rootfs makes a root file system.
func (e *Engine) rootfs(t testing.TB) string {
	rootfs := filepath.Join(e.Dir, "rootfs")
	for _, dir := range append(libraries(), "/dev", "/proc", "/sys", "/tmp") {
		require.NoError(t, os.MkdirAll(rootfs+dir, 0o755))
	}
	return rootfs
}

// runtime makes a bundle for runc or crun.
func (e *Engine) runtime(t testing.TB) {
	e.Command = []string{e.Name, "--root", e.Dir + "/state"}
	e.Bundle = e.Dir
	e.rootfs(t)
	spec := exec.Command(e.Name, "spec")
	spec.Dir = e.Dir
	out, err := spec.CombinedOutput()
	require.NoError(t, err, "%s", out)
	e.Configure(t, func(c map[string]any) {
		// Not every root may raise the limits.
		delete(c["process"].(map[string]any), "rlimits")
		for _, dir := range libraries() {
			c["mounts"] = append(c["mounts"].([]any), map[string]any{"destination": dir,
				"type": "bind", "source": dir, "options": []string{"rbind", "ro"}})
		}
	})
}

// Configure changes the bundle's configuration.
func (e *Engine) Configure(t testing.TB, change func(map[string]any)) {
	file := filepath.Join(e.Bundle, "config.json")
	var config map[string]any
	require.NoError(t, json.Unmarshal([]byte(testkit.ReadFile(t, file)), &config))
	change(config)
	text, err := json.Marshal(config)
	require.NoError(t, err)
	testkit.WriteFile(t, file, string(text))
}

// try skips the test unless a program runs in a container.
func (e *Engine) try(t testing.TB) {
	args := append([]string{"run", "--rm"}, append(e.Options, e.Image, "/bin/true")...)
	if e.Bundle != "" {
		config := testkit.ReadFile(t, filepath.Join(e.Bundle, "config.json"))
		config = strings.NewReplacer(`["sh"]`, `["/bin/true"]`, `"terminal":true`,
			`"terminal":false`, `"rootfs"`, `"`+e.Dir+`/rootfs"`).Replace(config)
		testkit.WriteFile(t, filepath.Join(e.Dir, "try", "config.json"), config)
		args = append([]string{"run", "--bundle", e.Dir + "/try"}, append(e.Options, "try")...)
	}
	if out, err := e.run(args...); err != nil {
		t.Skipf("%s runs no container here: %v: %s", e.Name, err, out)
	}
}

// run runs a command of the engine.
func (e *Engine) run(args ...string) (output string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	args = append(e.Command[1:len(e.Command):len(e.Command)], args...)
	cmd := exec.CommandContext(ctx, e.Command[0], args...)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Run runs a command of the engine and returns its output.
func (e *Engine) Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := e.run(args...)
	require.NoError(t, err, "%s", out)
	return out
}

// Containers returns the ids or names of all containers, running or not.
func (e *Engine) Containers(t testing.TB) []string {
	t.Helper()
	if e.Bundle != "" {
		return strings.Fields(e.Run(t, "list", "--quiet"))
	}
	return strings.Fields(e.Run(t, "ps", "--all", "--quiet", "--filter", "name=spawnwire-"))
}

// AwaitNone waits until there is no container.
func (e *Engine) AwaitNone(t testing.TB) {
	t.Helper()
	testkit.Eventually(t, "no container is left", func() bool { return len(e.Containers(t)) == 0 })
}

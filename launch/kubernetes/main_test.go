//go:build linux

package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/launch/kubernetes"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestMain(m *testing.M) {
	testkit.PlayRole(map[string]testkit.Role{"spawns-in-a-pod": spawnsInAPod})
	roles.Register()
	launching.Register()
	forkspawn.Register("ignores-sigterm", ignoresSIGTERM)
	forkspawn.Register("prints-words", printsWords)
	spawntest.Main(m)
}

// ignoresSIGTERM says that it does so, and waits forever.
func ignoresSIGTERM(ctx context.Context, p *forkspawn.Parent) error {
	signal.Ignore(syscall.SIGTERM)
	if err := p.Send(ctx, true); err != nil {
		return err
	}
	select {}
}

// printsWords prints each message.
func printsWords(ctx context.Context, p *forkspawn.Parent) error {
	for {
		var word string
		if err := p.Recv(ctx, &word); err != nil {
			return err
		}
		fmt.Println(word)
	}
}

// newCluster returns a cluster of one node, and a launcher for it.
func newCluster(t testing.TB) (*kubelet, *kubernetes.Launcher) {
	t.Helper()
	needNamespaces(t)
	k := newKubelet(t, newAPIServer(t))
	return k, newLauncher(t, k.url)
}

func newLauncher(t testing.TB, url string) *kubernetes.Launcher {
	t.Helper()
	c, err := newClient(url)
	require.NoError(t, err)
	return &kubernetes.Launcher{Client: c, Namespace: namespace, Template: template()}
}

// template has the network of the node, because the node is this machine.
func template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{Spec: corev1.PodSpec{HostNetwork: true,
		Containers: []corev1.Container{{Name: "main", Image: image}}}}
}

// needNamespaces skips the test if the kubelet cannot make namespaces.
func needNamespaces(t testing.TB) {
	t.Helper()
	testkit.NeedRoot(t)
	cmd := exec.Command("mount", "-t", "tmpfs", "none", "/run")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("no namespaces here: %v: %s", err, out)
	}
}

// newSpawner returns a Spawner that listens for pods.
func newSpawner(t testing.TB, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	cfg.Listen = transport.Addr{Scheme: transport.SchemeTLS, Target: "127.0.0.1:0"}
	return spawntest.NewSpawner(t, cfg)
}

// only returns the name of the only pod.
func (k *kubelet) only(t testing.TB) (name string) {
	t.Helper()
	k.locked(func() {
		require.Len(t, k.pods, 1)
		for name = range k.pods {
		}
	})
	return name
}

// kill kills the child in a pod from outside of it.
func (k *kubelet) kill(t testing.TB, name string) {
	t.Helper()
	k.locked(func() { require.NoError(t, syscall.Kill(k.processes[name], syscall.SIGKILL)) })
}

// requireEmpty fails if the cluster has a pod or a Secret.
func (k *kubelet) requireEmpty(t testing.TB) {
	t.Helper()
	k.locked(func() {
		require.Empty(t, k.pods)
		require.Empty(t, k.secrets)
	})
}

// awaitEmpty waits until the cluster has neither pods nor Secrets nor processes.
func (k *kubelet) awaitEmpty(t testing.TB) {
	t.Helper()
	testkit.Eventually(t, "no pod and no Secret is left", func() (empty bool) {
		k.locked(func() { empty = len(k.pods)+len(k.secrets) == 0 })
		return empty
	})
	var pids []int
	k.locked(func() {
		for _, pid := range k.processes {
			pids = append(pids, pid)
		}
	})
	testkit.Eventually(t, "no process is left", func() bool {
		for _, pid := range pids {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
				return false
			}
		}
		return true
	})
}

// spawnsInAPod is a program. It spawns a child in a pod of the API server in its first
// argument, says "ready", and waits.
func spawnsInAPod(ctx context.Context) error {
	os.Unsetenv(testkit.RoleEnv)
	clientset, err := newClient(os.Getenv("API"))
	if err != nil {
		return err
	}
	s, err := forkspawn.New(forkspawn.Config{
		Listen: transport.Addr{Scheme: transport.SchemeTLS, Target: "127.0.0.1:0"}})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("begins")
	_, err = s.Spawn(ctx, spawnspec.Spec{Entry: "echo"}, launching.On(&kubernetes.Launcher{
		Client: clientset, Namespace: namespace, Template: template(), Owner: owner}))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return nil
}

// owner is the pod of spawnsInAPod.
var owner = &metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "parent", UID: "parent-uid"}

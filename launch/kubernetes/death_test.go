//go:build linux

package kubernetes_test

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/launch/kubernetes"
)

func TestDeath_IsExplained(t *testing.T) {
	unknown := corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown"}
	disruption := func(reason string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget,
				Status: corev1.ConditionTrue, Reason: reason, Message: "because of " + reason}}
		}
	}
	status := func(reason string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Status.Reason, pod.Status.Message = reason, "because of "+reason
		}
	}
	const killed = "signal: killed"
	for name, test := range map[string]struct {
		first  func(*corev1.Pod) // what the cluster reports before the end
		by     func(t *testing.T, k *kubelet, name string)
		want   []error
		status string
	}{
		"a signal": {nil, nil, nil, killed},
		"memory": {nil, func(t *testing.T, k *kubelet, name string) {
			k.locked(func() { k.oom = true })
			k.kill(t, name)
		}, []error{kubernetes.ErrMemory}, killed},
		"eviction": {status("Evicted"), nil, []error{kubernetes.ErrEvicted}, killed},
		"a drain": {disruption("EvictionByEvictionAPI"), nil,
			[]error{kubernetes.ErrEvicted}, killed},
		"preemption": {disruption("PreemptionByScheduler"), nil,
			[]error{kubernetes.ErrPreempted}, killed},
		"the deadline": {status("DeadlineExceeded"), nil, []error{kubernetes.ErrDeadline}, killed},
		"a shut down":  {status("NodeShutdown"), nil, []error{kubernetes.ErrNode}, killed},
		"a taint": {disruption("DeletionByTaintManager"), nil,
			[]error{kubernetes.ErrNode}, killed},
		"a deleted pod": {nil, deletes(1), []error{kubernetes.ErrDeleted}, "exit status 2"},
		"a pod deleted by force": {nil, deletes(0), []error{kubernetes.ErrLost},
			"unknown exit status"},
		"a lost node": {status("NodeLost"), deletes(0),
			[]error{kubernetes.ErrLost, kubernetes.ErrNode}, "unknown exit status"},
		"an unknown status": {nil, func(t *testing.T, k *kubelet, name string) {
			k.ended(name, unknown)
		}, []error{kubernetes.ErrLost}, "unknown exit status"},
	} {
		t.Run(name, func(t *testing.T) {
			k, l := newCluster(t)
			c := launching.Spawn(t, newSpawner(t, forkspawn.Config{}), l, "echo")
			launching.RequireEcho(t, c)
			pod := k.only(t)
			if test.first != nil {
				k.update(pod, test.first)
			}
			if test.by == nil {
				test.by = func(t *testing.T, k *kubelet, name string) { k.kill(t, name) }
			}
			test.by(t, k, pod)
			got, err := c.Wait(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, test.status, got.String())
			err = c.Err()
			for _, want := range test.want {
				assert.ErrorIs(t, err, want)
			}
			var failed *kubernetes.Error
			if assert.Equal(t, len(test.want) > 0 && test.want[0] != kubernetes.ErrMemory,
				errorsAs(err, &failed)) && failed != nil {
				assert.Equal(t, pod, failed.Pod)
				assert.Equal(t, "node1", failed.Node)
				if test.first != nil {
					assert.Contains(t, failed.Details, "because of ")
				}
			}
			k.awaitEmpty(t)
		})
	}
}

// deletes deletes a pod, as kubectl delete does.
func deletes(grace int64) func(*testing.T, *kubelet, string) {
	return func(_ *testing.T, k *kubelet, name string) {
		k.locked(func() { k.remove(name, metav1.DeleteOptions{GracePeriodSeconds: &grace}) })
	}
}

func TestDeath_IsSeenAfterBrokenWatches(t *testing.T) {
	for name, breaks := range map[string]func(*kubelet){
		"broken off": func(k *kubelet) { k.breakWatches(false) },
		"expired":    func(k *kubelet) { k.breakWatches(true) },
		"a server that fails for a while": func(k *kubelet) {
			fails := 5
			k.locked(func() {
				k.answer = func(request string) *metav1.Status {
					if fails--; fails > 0 {
						return failure(http.StatusServiceUnavailable,
							metav1.StatusReasonServiceUnavailable, "server", "not now")
					}
					return nil
				}
			})
			k.breakWatches(true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			k, l := newCluster(t)
			c := launching.Spawn(t, newSpawner(t, forkspawn.Config{}), l, "echo")
			for range 3 {
				breaks(k)
				launching.RequireEcho(t, c)
			}
			k.kill(t, k.only(t))
			got, err := c.Wait(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, syscall.SIGKILL, got.Signal())
			k.awaitEmpty(t)
		})
	}
}

// The log has each line once, although its stream breaks off again and again.
func TestDeath_OfTheLogLosesNoLine(t *testing.T) {
	k, l := newCluster(t)
	var out testkit.Output
	c := launching.Spawn(t, newSpawner(t, forkspawn.Config{}), l, "prints-words",
		forkspawn.WithStderr(forkspawn.Capture(&out)))
	ctx := testkit.Context(t)
	var want strings.Builder
	for i := range 20 {
		word := fmt.Sprintf("word-%d", i)
		want.WriteString(word + "\n")
		require.NoError(t, c.Send(ctx, word))
		if i%3 == 0 {
			k.breakWatches(false)
		}
		testkit.Eventually(t, word, func() bool {
			return strings.Contains(out.String(), word+"\n")
		})
	}
	_, err := c.Stop(ctx)
	require.NoError(t, err)
	assert.Equal(t, want.String(), out.String())
}

// A dead node does not confirm a deletion.
func TestDeath_OfTheNode(t *testing.T) {
	k, l := newCluster(t)
	c := launching.Spawn(t, newSpawner(t, forkspawn.Config{}), l, "echo")
	name := k.only(t)
	k.locked(func() { k.dead = true })
	k.kill(t, name)
	_, err := c.Kill()
	require.NoError(t, err)
	require.ErrorIs(t, c.Err(), kubernetes.ErrLost)
	k.awaitEmpty(t)
}

func TestDeath_OfTheAPIServer(t *testing.T) {
	k, l := newCluster(t)
	c := launching.Spawn(t, newSpawner(t, forkspawn.Config{}), l, "echo")
	name := k.only(t)
	k.locked(func() {
		k.answer = func(string) *metav1.Status {
			return failure(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable,
				"server", "not now")
		}
	})
	k.breakWatches(false)
	launching.RequireEcho(t, c) // the API server is not between parent and child
	k.kill(t, name)
	_, err := c.Kill()
	require.NoError(t, err)
	require.ErrorIs(t, c.Err(), kubernetes.ErrLost)
	k.locked(func() { k.answer = nil })
	k.awaitEmpty(t)
}

func TestKeep_KeepsPodsOfFailures(t *testing.T) {
	k, l := newCluster(t)
	l.Keep = true
	s := newSpawner(t, forkspawn.Config{})
	_, err := launching.Spawn(t, s, l, "echo").Stop(testkit.Context(t))
	require.NoError(t, err)
	k.awaitEmpty(t)
	c := launching.Spawn(t, s, l, "speaks")
	_, err = c.Wait(testkit.Context(t))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	name := k.only(t)
	k.locked(func() {
		assert.Equal(t, corev1.PodFailed, k.pods[name].Status.Phase)
		assert.Empty(t, k.secrets)
		k.remove(name, metav1.DeleteOptions{})
	})
}

// The parent is killed after the start, while the pod waits, and before it has its Secret.
func TestDeath_OfTheParent(t *testing.T) {
	release := make(chan struct{})
	for name, test := range map[string]struct {
		before func(*kubelet)
		until  func(t *testing.T, k *kubelet, lines *bufio.Scanner)
	}{
		"after the start": {nil, func(t *testing.T, k *kubelet, lines *bufio.Scanner) {
			require.True(t, lines.Scan(), "ready")
		}},
		"in the queue": {func(k *kubelet) { k.full = true }, awaitRequest("create secrets")},
		"before the container": {func(k *kubelet) { k.slow = make(chan struct{}) },
			awaitRequest("create secrets")},
		"without a Secret": {func(k *kubelet) {
			refuse("create secrets", http.StatusServiceUnavailable,
				metav1.StatusReasonServiceUnavailable, "not now")(k, nil)
			k.hold = func(request string) <-chan struct{} {
				if request != "create secrets" {
					return nil
				}
				return release
			}
		}, awaitRequest("create secrets")},
	} {
		t.Run(name, func(t *testing.T) {
			k, _ := newCluster(t)
			if test.before != nil {
				k.locked(func() { test.before(k) })
			}
			parent := testkit.RoleCommand(t, "spawns-in-a-pod")
			parent.Env = append(parent.Env, "API="+k.url)
			parent.Stderr = os.Stderr
			out, err := parent.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, parent.Start())
			lines := bufio.NewScanner(out)
			require.True(t, lines.Scan(), "begins")
			test.until(t, k, lines)
			require.NoError(t, parent.Process.Kill())
			var exit *exec.ExitError
			require.ErrorAs(t, parent.Wait(), &exit)
			if name == "without a Secret" {
				close(release)
			}
			if test.before == nil {
				pod := k.only(t)
				testkit.Eventually(t, "the child has ended by itself", func() (ended bool) {
					k.locked(func() { ended = k.pods[pod].Status.Phase == corev1.PodFailed })
					return ended
				})
			}
			k.collect(owner.UID)
			k.awaitEmpty(t)
		})
	}
}

func awaitRequest(want string) func(*testing.T, *kubelet, *bufio.Scanner) {
	return func(t *testing.T, k *kubelet, _ *bufio.Scanner) {
		testkit.Eventually(t, want, func() (seen bool) {
			k.locked(func() {
				for _, request := range k.seen {
					seen = seen || request == want
				}
			})
			return seen
		})
	}
}

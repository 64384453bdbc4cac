//go:build linux

package kubernetes_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/launching"
	"github.com/spawnwire/spawnwire/launch/kubernetes"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func errorsAs[T error](err error, target *T) bool { return err != nil && errors.As(err, target) }

// spawnError spawns a child of a command and returns the error.
func spawnError(ctx context.Context, t *testing.T, cmd forkspawn.Command) error {
	t.Helper()
	s := newSpawner(t, forkspawn.Config{Stderr: forkspawn.Capture(nil)})
	_, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo"}, forkspawn.WithCommand(cmd))
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	return err
}

func TestError_OfTheCluster(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	require.NoError(t, os.WriteFile(plain, []byte("\x7fELF"), 0o644))
	for _, test := range []struct {
		name  string
		set   func(*kubelet, *kubernetes.Launcher)
		path  string
		want  error
		words string
	}{
		{"image", func(_ *kubelet, l *kubernetes.Launcher) {
			l.Template.Spec.Containers[0].Image = "registry.test/none"
		}, "", kubernetes.ErrImage, "registry.test/none: not found"},
		{"namespace", func(_ *kubelet, l *kubernetes.Launcher) { l.Namespace = "none" }, "",
			kubernetes.ErrNamespace, "none"},
		{"program", nil, "/no/such/program", fs.ErrNotExist, "/no/such/program"},
		{"permission", nil, plain, fs.ErrPermission, plain},
		{"quota", refuse("create pods", http.StatusForbidden, metav1.StatusReasonForbidden,
			"exceeded quota: few"), "", kubernetes.ErrQuota, "few"},
		{"pods are forbidden", refuse("create pods", http.StatusForbidden,
			metav1.StatusReasonForbidden, "cannot create"), "", kubernetes.ErrForbidden, "create"},
		{"Secrets are forbidden", refuse("create secrets", http.StatusForbidden,
			metav1.StatusReasonForbidden, "cannot create"), "", kubernetes.ErrForbidden, "secrets"},
		{"watches are forbidden", refuse("watch pods", http.StatusForbidden,
			metav1.StatusReasonForbidden, "cannot watch"), "", kubernetes.ErrForbidden, "watch"},
		{"an invalid template", refuse("create pods", http.StatusUnprocessableEntity,
			metav1.StatusReasonInvalid, "spec.containers: Required"), "", kubernetes.ErrTemplate,
			"Required"},
		{"a broken server", refuse("create pods", http.StatusInternalServerError,
			metav1.StatusReasonInternalError, "etcd"), "", kubernetes.ErrAPI, "etcd"},
	} {
		t.Run(test.name, func(t *testing.T) {
			spawntest.NoLeaks(t)
			k, l := newCluster(t)
			if test.set != nil {
				k.locked(func() { test.set(k, l) })
			}
			err := spawnError(testkit.Context(t), t,
				forkspawn.Command{Launcher: l, Path: test.path})
			var failed *kubernetes.Error
			require.ErrorAs(t, err, &failed)
			assert.ErrorIs(t, err, test.want)
			assert.ErrorContains(t, err, test.words)
			assert.NotContains(t, err.Error(), "may be left")
			if test.name == "pods are forbidden" {
				assert.NotContains(t, k.seen, "delete pods", "nothing was created")
			}
			var status *apierrors.StatusError
			assert.Equal(t, strings.Contains(test.name, " are forbidden"),
				errors.As(err, &status) && apierrors.IsForbidden(status) && test.name != "quota")
			k.requireEmpty(t)
		})
	}
}

// refuse lets the API server refuse a request.
func refuse(
	request string, code int32, reason metav1.StatusReason, text string,
) func(*kubelet, *kubernetes.Launcher) {
	return func(k *kubelet, _ *kubernetes.Launcher) {
		k.answer = func(got string) *metav1.Status {
			if got != request {
				return nil
			}
			return failure(code, reason, strings.Fields(request)[1], text)
		}
	}
}

// The kubelet reports these; no process is needed.
func TestError_OfTheKubelet(t *testing.T) {
	waiting := func(reason string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Status.ContainerStatuses = statuses("main", corev1.ContainerState{
				Waiting: &corev1.ContainerStateWaiting{
					Reason: reason, Message: "exec format error"}})
		}
	}
	failed := func(reason string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Status.Phase, pod.Status.Reason = corev1.PodFailed, reason
		}
	}
	for _, test := range []struct {
		report func(*corev1.Pod)
		want   error
		words  string
	}{
		{waiting("InvalidImageName"), kubernetes.ErrImage, "InvalidImageName"},
		{waiting("CreateContainerConfigError"), kubernetes.ErrConfig, "CreateContainerConfigError"},
		{waiting("RunContainerError"), syscall.ENOEXEC, "exec format error"},
		{failed("Evicted"), kubernetes.ErrEvicted, "Evicted"},
		{failed("OutOfcpu"), kubernetes.ErrStart, "OutOfcpu"},
	} {
		t.Run(test.words, func(t *testing.T) {
			k, l := newCluster(t)
			k.slow = make(chan struct{})
			spawned := testkit.Background(t, func() error {
				return spawnError(testkit.Context(t), t, forkspawn.Command{Launcher: l})
			})
			testkit.Eventually(t, "there is a Secret", func() (there bool) {
				k.locked(func() { there = len(k.secrets) == 1 })
				return there
			})
			k.update(k.only(t), test.report)
			err := spawned()
			var failed *kubernetes.Error
			require.ErrorAs(t, err, &failed)
			assert.ErrorIs(t, err, test.want)
			assert.ErrorContains(t, err, test.words)
			k.requireEmpty(t)
		})
	}
}

// The start's context ends in each phase.
func TestError_OfTheContext(t *testing.T) {
	for _, test := range []struct {
		request string // that the API server holds until the context has ended
		set     func(*kubelet)
		want    error
		words   string
	}{
		{"create pods", nil, kubernetes.ErrStart, ""},
		{"create secrets", nil, kubernetes.ErrStart, ""},
		{"get pods", nil, kubernetes.ErrStart, ""},
		{"watch pods", nil, kubernetes.ErrStart, ""},
		{"", func(k *kubelet) { k.full = true }, kubernetes.ErrPending, "3 Insufficient cpu"},
		{"", func(k *kubelet) { k.slow = make(chan struct{}) }, kubernetes.ErrStart,
			"no such volume"},
	} {
		t.Run(test.request+test.words, func(t *testing.T) {
			spawntest.NoLeaks(t)
			k, l := newCluster(t)
			ctx, cancel := context.WithCancel(testkit.Context(t))
			defer cancel()
			release := make(chan struct{})
			k.locked(func() {
				if test.set != nil {
					test.set(k)
				}
				k.hold = func(got string) <-chan struct{} {
					if got != test.request || ctx.Err() != nil {
						return nil
					}
					time.AfterFunc(100*time.Millisecond, cancel)
					time.AfterFunc(300*time.Millisecond, func() { close(release) })
					return release
				}
			})
			if test.set != nil {
				go func() {
					awaitRequest("watch pods")(t, k, nil)
					pod := k.only(t)
					k.locked(func() {
						k.events = []corev1.Event{{Reason: "FailedMount", Message: "no such volume",
							InvolvedObject: corev1.ObjectReference{Name: pod}}}
					})
					time.Sleep(100 * time.Millisecond) // for the kubelet's report
					cancel()
				}()
			}
			err := spawnError(ctx, t, forkspawn.Command{Launcher: l})
			require.ErrorIs(t, err, context.Canceled)
			if test.want != nil {
				require.ErrorIs(t, err, test.want)
				require.ErrorContains(t, err, test.words)
			}
			k.requireEmpty(t)
		})
	}
}

// The connection breaks while the API server creates the pod.
func TestError_OfABrokenConnection(t *testing.T) {
	k, l := newCluster(t)
	k.locked(func() { k.drop = func(request string) bool { return request == "create pods" } })
	err := spawnError(testkit.Context(t), t, forkspawn.Command{Launcher: l})
	require.ErrorIs(t, err, kubernetes.ErrAPI)
	k.requireEmpty(t)
	k.locked(func() { require.NotEmpty(t, k.history, "the pod was there") })
}

func TestError_PodCannotBeDeleted(t *testing.T) {
	k, l := newCluster(t)
	k.locked(func() {
		l.Template.Spec.Containers[0].Image = "none"
		refuse("delete pods", http.StatusForbidden, metav1.StatusReasonForbidden, "no")(k, l)
	})
	err := spawnError(testkit.Context(t), t, forkspawn.Command{Launcher: l})
	require.ErrorIs(t, err, kubernetes.ErrImage)
	require.ErrorContains(t, err, "the pod may be left")
}

func TestLauncher_ChecksItsFields(t *testing.T) {
	needNamespaces(t)
	with := func(f func(*kubernetes.Launcher)) *kubernetes.Launcher {
		l := newLauncher(t, "http://127.0.0.1:1")
		f(l)
		return l
	}
	for want, f := range map[string]func(*kubernetes.Launcher){
		"field Client":     func(l *kubernetes.Launcher) { l.Client = nil },
		`no container "x"`: func(l *kubernetes.Launcher) { l.Container = "x" },
		"the RestartPolicy is Always": func(l *kubernetes.Launcher) {
			l.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways
		},
		"the loopback interface of each": func(l *kubernetes.Launcher) {
			l.Template.Spec.HostNetwork = false
		},
	} {
		err := spawnError(testkit.Context(t), t, forkspawn.Command{Launcher: with(f)})
		assert.ErrorContains(t, err, want)
	}
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"},
		launching.On(with(func(*kubernetes.Launcher) {})))
	require.ErrorContains(t, err, "Config.Listen")
	require.ErrorContains(t, err, "tls://")
	_, err = newSpawner(t, forkspawn.Config{}).Spawn(testkit.Context(t),
		spawnspec.Spec{Entry: "echo", Dir: "here"},
		launching.On(with(func(*kubernetes.Launcher) {})))
	require.ErrorContains(t, err, "absolute")
}

//go:build linux

package kubernetes_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// kubelet runs the pods of an API server as processes of this machine. A container has PID
// and mount namespaces of its own, so its first process is process 1, and the Secret is
// mounted where the pod wants it. It is also the scheduler.
type kubelet struct {
	*apiServer
	t    testing.TB
	dir  string
	work sync.WaitGroup

	// Set before the first pod, under mu.
	full   bool          // no pod gets a node
	slow   chan struct{} // pods wait for it before their container is created
	oom    bool          // SIGKILL was for lack of memory
	second time.Duration // how long a second of a grace is
	dead   bool          // the node does nothing any more

	processes map[string]int // by the pod's name: process 1 as this machine sees it
}

// image is an image whose program is the test binary.
const image = "registry.test/program:1"

func newKubelet(t testing.TB, a *apiServer) *kubelet {
	k := &kubelet{apiServer: a, t: t, dir: t.TempDir(), second: 100 * time.Millisecond,
		processes: map[string]int{}}
	k.work.Go(k.run)
	t.Cleanup(func() {
		a.locked(func() { a.closed = true; a.notify() })
		k.work.Wait()
	})
	return k
}

// run starts each pod once.
func (k *kubelet) run() {
	known := map[string]bool{}
	for {
		var changed chan struct{}
		var closed bool
		k.locked(func() {
			changed, closed = k.changed, k.closed
			for name := range k.pods {
				if !known[name] && !closed {
					known[name] = true
					k.work.Go(func() { k.pod(name) })
				}
			}
		})
		if closed {
			return
		}
		<-changed
	}
}

// await waits until the pod is gone or to be deleted, or cond is true, and returns the pod.
func (k *kubelet) await(name string, cond func(*corev1.Pod) bool) (pod *corev1.Pod, ok bool) {
	for {
		var changed chan struct{}
		var closed bool
		k.locked(func() {
			changed, closed, pod = k.changed, k.closed, k.pods[name]
			ok = pod != nil && cond(pod)
		})
		if closed || ok || pod == nil {
			return pod, ok
		}
		<-changed
	}
}

func isDeleted(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil }

// pod runs one pod to its end.
func (k *kubelet) pod(name string) {
	var full bool
	k.locked(func() { full = k.full })
	if full {
		k.update(name, func(pod *corev1.Pod) {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled,
				Status: corev1.ConditionFalse, Reason: "Unschedulable",
				Message: "0/3 nodes are available: 3 Insufficient cpu."}}
		})
		k.await(name, func(*corev1.Pod) bool { return !k.full }) // or it is deleted at once
	}
	k.update(name, func(pod *corev1.Pod) { pod.Spec.NodeName = "node1" })
	k.waiting(name, "ContainerCreating", "")
	pod, ok := k.await(name, func(pod *corev1.Pod) bool {
		return isDeleted(pod) || k.secrets[name] != nil && k.slow == nil
	})
	if !ok || isDeleted(pod) {
		k.gone(name)
		return
	}
	var secret *corev1.Secret
	k.locked(func() { secret = k.secrets[name] })
	c := pod.Spec.Containers[0]
	command := append(append([]string{}, c.Command...), c.Args...)
	switch {
	case c.Image != image:
		k.waiting(name, "ErrImagePull", "failed to resolve reference "+c.Image+": not found")
		k.await(name, isDeleted)
		k.gone(name)
		return
	case len(c.Command) == 0:
		command = append([]string{testkit.Self(k.t)}, c.Args...)
	}
	if err := executable(command[0]); err != nil {
		k.ended(name, corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError",
			Message: "runc create failed: unable to start container process: " + err.Error()})
		k.await(name, isDeleted)
		k.gone(name)
		return
	}
	k.container(name, pod, command, secret)
}

// executable returns the error of runc for a program.
func executable(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("exec: %q: stat %s: no such file or directory: unknown", path, path)
	case st.Mode()&0o111 == 0:
		return fmt.Errorf("exec: %q: permission denied: unknown", path)
	}
	return nil
}

// script makes the container's file system and then becomes its program.
const script = `mount --make-rprivate / && mount -t tmpfs none /run && mount -t proc proc /proc &&
mkdir -p "$2" && mount --bind "$1" "$2" && cd "$3" && shift 3 && exec "$@"`

// container runs the container of a pod.
func (k *kubelet) container(name string, pod *corev1.Pod, command []string, secret *corev1.Secret) {
	c := pod.Spec.Containers[0]
	volume := filepath.Join(k.dir, name)
	for key, text := range secret.StringData {
		testkit.WriteFile(k.t, filepath.Join(volume, key), text)
		for _, v := range pod.Spec.Volumes {
			if v.Secret != nil && v.Secret.SecretName == name {
				os.Chmod(filepath.Join(volume, key), os.FileMode(*v.Secret.DefaultMode))
			}
		}
	}
	cmd := exec.Command("sh", append([]string{"-c", script, "sh", volume,
		c.VolumeMounts[0].MountPath, c.WorkingDir + "/"}, command...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for _, e := range c.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+expand(e.Value))
	}
	for i, arg := range cmd.Args[7:] {
		cmd.Args[7+i] = expand(arg)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	r, w, err := os.Pipe()
	if err != nil {
		k.t.Error(err)
		return
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		k.t.Error(err)
		r.Close()
		return
	}
	k.locked(func() { k.processes[name] = cmd.Process.Pid })
	logged := make(chan struct{})
	go func() { defer close(logged); k.keepLog(name, r) }()
	k.update(name, func(pod *corev1.Pod) {
		pod.Status.Phase = corev1.PodRunning
		pod.Status.ContainerStatuses = statuses(c.Name, corev1.ContainerState{
			Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}})
	})
	ended := make(chan struct{})
	k.work.Go(func() { k.obey(name, cmd.Process, ended) })
	err = cmd.Wait()
	close(ended)
	<-logged
	os.RemoveAll(volume)
	k.report(name, cmd, err)
}

// report reports the end of a container.
func (k *kubelet) report(name string, cmd *exec.Cmd, err error) {
	var dead, oom bool
	k.locked(func() { dead, oom = k.dead, k.oom })
	if dead {
		return
	}
	end := corev1.ContainerStateTerminated{Reason: "Completed"}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		end.Reason, end.ExitCode = "Error", int32(exit.ExitCode())
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
			end.ExitCode = 128 + int32(ws.Signal())
			if oom && ws.Signal() == syscall.SIGKILL {
				end.Reason = "OOMKilled"
			}
		}
	}
	k.ended(name, end)
	k.await(name, isDeleted)
	k.gone(name)
}

// obey ends a container when its pod is deleted or gone.
func (k *kubelet) obey(name string, p *os.Process, ended chan struct{}) {
	pod, _ := k.await(name, isDeleted)
	var closed, dead bool
	k.locked(func() { closed, dead = k.closed, k.dead })
	if closed || dead {
		p.Kill()
		return
	}
	if pod != nil {
		p.Signal(syscall.SIGTERM)
		began := time.Now()
		for {
			var changed chan struct{}
			grace := int64(0)
			k.locked(func() {
				changed = k.changed
				if pod = k.pods[name]; pod != nil {
					grace = *pod.DeletionGracePeriodSeconds
				}
				if k.closed {
					grace = 0
				}
			})
			rest := time.NewTimer(time.Until(began.Add(time.Duration(grace) * k.second)))
			select {
			case <-ended:
				return
			case <-changed: // the grace can be shorter now
				continue
			case <-rest.C:
			}
			break
		}
	}
	p.Kill()
}

// expand is what the kubelet does to arguments and variables, without any variable.
func expand(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '$' && i+1 < len(s) && s[i+1] == '$' {
			i++
		} else if s[i] == '$' && i+1 < len(s) && s[i+1] == '(' {
			out = append(out, "expanded:"...)
		}
		out = append(out, s[i])
	}
	return string(out)
}

// keepLog keeps the output of a container with the times of its lines.
func (k *kubelet) keepLog(name string, r io.ReadCloser) {
	defer r.Close()
	k.locked(func() { k.lines[name] = &logged{} })
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		k.locked(func() {
			if line != "" {
				at := time.Now().UTC().Format(time.RFC3339Nano)
				k.lines[name].lines = append(k.lines[name].lines, at+" "+line)
			}
			k.lines[name].ended = err != nil
			k.notify()
		})
		if err != nil {
			return
		}
	}
}

func statuses(name string, st corev1.ContainerState) []corev1.ContainerStatus {
	return []corev1.ContainerStatus{{Name: name, State: st}}
}

// waiting reports that the container waits.
func (k *kubelet) waiting(name, reason, message string) {
	k.update(name, func(pod *corev1.Pod) {
		pod.Status.ContainerStatuses = statuses(pod.Spec.Containers[0].Name, corev1.ContainerState{
			Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}})
	})
}

// ended reports the end of the container.
func (k *kubelet) ended(name string, end corev1.ContainerStateTerminated) {
	k.update(name, func(pod *corev1.Pod) {
		if pod.Status.Phase = corev1.PodFailed; end.ExitCode == 0 {
			pod.Status.Phase = corev1.PodSucceeded
		}
		pod.Status.ContainerStatuses = statuses(pod.Spec.Containers[0].Name,
			corev1.ContainerState{Terminated: &end})
	})
}

// gone removes a deleted pod whose containers have ended.
func (k *kubelet) gone(name string) {
	k.locked(func() {
		if pod := k.pods[name]; pod != nil && isDeleted(pod) && !k.dead {
			k.put("DELETED", pod.DeepCopy())
		}
	})
}

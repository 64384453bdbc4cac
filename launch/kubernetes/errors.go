package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/spawnwire/spawnwire/launch/internal/session"
)

// Causes of an [Error].
var (
	// ErrAPI: the API server cannot be reached or has failed.
	ErrAPI = errors.New("the API server cannot be reached or has failed")
	// ErrForbidden: the API server has not allowed a request. The account of this
	// process lacks a permission, or an admission controller has refused the pod.
	ErrForbidden = errors.New("the API server has not allowed it")
	// ErrQuota: a ResourceQuota of the namespace is used up.
	ErrQuota = errors.New("a quota of the namespace is used up")
	// ErrNamespace: there is no such namespace.
	ErrNamespace = errors.New("no such namespace")
	// ErrTemplate: the API server takes Launcher.Template, or what is added to it, for
	// invalid.
	ErrTemplate = errors.New("the template is not valid")
	// ErrPending: the pod had no node when the start's time was over.
	ErrPending = errors.New("the pod has no node")
	// ErrImage: an image of the pod could not be pulled.
	ErrImage = errors.New("the image could not be pulled")
	// ErrConfig: a ConfigMap or a Secret that the template names is missing.
	ErrConfig = errors.New("the configuration of the container is missing")
	// ErrStart: the container has not started, for another reason.
	ErrStart = errors.New("the container has not started")
	// ErrEvicted: the pod was evicted, from a node that lacks resources or is drained.
	ErrEvicted = errors.New("the pod was evicted")
	// ErrPreempted: the pod made room for one with a higher priority.
	ErrPreempted = errors.New("the pod was preempted")
	// ErrDeadline: the activeDeadlineSeconds of the pod are over.
	ErrDeadline = errors.New("the pod's activeDeadlineSeconds are over")
	// ErrNode: the node has failed or was shut down.
	ErrNode = errors.New("the node has failed or was shut down")
	// ErrDeleted: somebody else has deleted the pod.
	ErrDeleted = errors.New("the pod was deleted")
	// ErrLost: nobody knows the exit status, because the pod is gone without one, or
	// the cluster does not answer.
	ErrLost = errors.New("the pod is lost")
	// ErrMemory: the kernel has killed a process of the container for lack of memory.
	// The error is found in the child's [forkspawn.ExitError], and not in an Error.
	ErrMemory = session.ErrMemory
)

// Error is the error of a start in a pod, and of a child whose pod has not ended as it
// should.
//
// errors.Is finds one or two of the causes above, or fs.ErrNotExist, fs.ErrPermission or
// syscall.ENOEXEC for the program in the image. If the API server has refused a request,
// errors.As finds its *errors.StatusError of k8s.io/apimachinery.
type Error struct {
	Namespace string
	Pod       string // its name
	Node      string // or "", if it has none
	Details   string // what the status of the pod and its last warnings say

	err error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("kubernetes: pod %s/%s: %v", e.Namespace, e.Pod, e.err)
	if e.Details != "" {
		s += fmt.Sprintf("; the cluster says %q", e.Details)
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// Reasons in the status of a pod and its containers. The kubelet and the scheduler have
// them as constants, and the API documents only some.
const (
	reasonUnknown = "ContainerStatusUnknown"
	reasonOOM     = "OOMKilled"
)

// causes are reasons for the end of a pod: in its status, and in its condition
// DisruptionTarget.
var causes = map[string]error{
	"Evicted":                             ErrEvicted,
	"EvictionByEvictionAPI":               ErrEvicted,
	"Preempting":                          ErrPreempted,
	corev1.PodReasonPreemptionByScheduler: ErrPreempted,
	"DeadlineExceeded":                    ErrDeadline,
	"NodeLost":                            ErrNode,
	"NodeShutdown":                        ErrNode,
	"Shutdown":                            ErrNode,
	"Terminated":                          ErrNode,
	"DeletionByTaintManager":              ErrNode,
	"DeletionByPodGC":                     ErrNode,
	string(corev1.PodReasonTerminationByKubelet): ErrNode,
}

// causeOf returns why the cluster has ended a pod, or nil. A nil pod has no cause.
func causeOf(pod *corev1.Pod) error {
	if pod == nil {
		return nil
	}
	if err := causes[pod.Status.Reason]; err != nil {
		return err
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return causes[c.Reason]
		}
	}
	return nil
}

// whyEnded returns what the status of an ended container does not say, or nil.
func (c *child) whyEnded(pod *corev1.Pod, end *corev1.ContainerStateTerminated) error {
	if end.Reason == reasonOOM {
		return ErrMemory
	}
	if cause := causeOf(pod); cause != nil {
		return c.failed(pod, cause)
	}
	if pod.DeletionTimestamp != nil && !c.asked.Load() {
		return c.failed(pod, ErrDeleted)
	}
	return nil
}

// waiting are the reasons of containers that do not start.
var waiting = map[string]error{
	"ErrImagePull":               ErrImage,
	"ImagePullBackOff":           ErrImage,
	"InvalidImageName":           ErrImage,
	"ErrImageNeverPull":          ErrImage,
	"ImageInspectError":          ErrImage,
	"RegistryUnavailable":        ErrImage,
	"SignatureValidationFailed":  ErrImage,
	"CreateContainerConfigError": ErrConfig,
	"CreateContainerError":       ErrStart,
	"RunContainerError":          ErrStart,
	"PreCreateHookError":         ErrStart,
	"PreStartHookError":          ErrStart,
	"PostStartHookError":         ErrStart,
}

// notStarted are reasons of ended containers without a process.
var notStarted = []string{"StartError", "ContainerCannotRun"}

// whyNotStarted returns why the child's container will not start, or nil.
func (p *pod) whyNotStarted(pod *corev1.Pod) error {
	for _, s := range containersOf(pod) {
		if w := s.State.Waiting; w != nil && waiting[w.Reason] != nil {
			return p.execError(waiting[w.Reason], w.Message)
		}
		if t := s.State.Terminated; t != nil && slices.Contains(notStarted, t.Reason) {
			return p.execError(ErrStart, t.Message)
		}
	}
	if st := stateOf(pod, p.container); st.Running != nil || st.Terminated != nil {
		return nil
	}
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return joined(ErrStart, causeOf(pod))
	}
	return nil
}

// containersOf returns the status of each container.
func containersOf(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
}

// execTexts are texts of container runtimes about the program.
var execTexts = []struct {
	text string
	err  error
}{
	{"executable file not found", fs.ErrNotExist},
	{"no such file or directory", fs.ErrNotExist},
	{"permission denied", fs.ErrPermission},
	{"exec format error", syscall.ENOEXEC},
}

// execError returns cause, or the error of the program if text is about its execution.
func (p *pod) execError(cause error, text string) error {
	if cause != ErrStart || !strings.Contains(text, "exec") { //nolint:errorlint // of the table
		return cause
	}
	for _, t := range execTexts {
		if strings.Contains(text, t.text) {
			return &fs.PathError{Op: "exec", Path: p.program, Err: t.err}
		}
	}
	return cause
}

// late returns the error of a start that ended with its context. api is the error of the
// last request, or nil, and cause that of the context.
func (p *pod) late(pod *corev1.Pod, api, cause error) error {
	switch {
	case api != nil:
		return p.failed(pod, fmt.Errorf("%w: %w: %w", ErrAPI, api, cause))
	case pod == nil:
		return p.failed(nil, fmt.Errorf("%w: no answer about the pod yet: %w", ErrStart, cause))
	case pod.Spec.NodeName == "":
		return p.failed(pod, fmt.Errorf("%w: %w", ErrPending, cause))
	}
	return p.failed(pod, fmt.Errorf("%w: %w", ErrStart, cause))
}

// refused returns the error of a request.
func (p *pod) refused(err error) error {
	var status apierrors.APIStatus
	errors.As(err, &status)
	is := ErrAPI
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"):
		is = ErrQuota
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		is = ErrForbidden
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		is = ErrTemplate
	case apierrors.IsNotFound(err) && status != nil && status.Status().Details != nil &&
		status.Status().Details.Kind == "namespaces":
		is = ErrNamespace
	}
	return p.error(nil, "", fmt.Errorf("%w: %w", is, err))
}

// error returns an Error with a cause.
func (p *pod) error(pod *corev1.Pod, details string, cause error) error {
	e := &Error{Namespace: p.object.Namespace, Pod: p.object.Name, Details: details, err: cause}
	if pod != nil {
		e.Node = pod.Spec.NodeName
	}
	return e
}

const (
	// eventsBound bounds the question for events.
	eventsBound = 2 * time.Second
	// maxEvents is how many warnings an error has, and maxDetails how many bytes in all.
	maxEvents  = 3
	maxDetails = 2 << 10
)

// failed returns an Error with a cause, and with what the cluster says about the pod.
func (p *pod) failed(pod *corev1.Pod, cause error) error {
	var words []string
	say := func(parts ...string) {
		parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
		if text := strings.Join(parts, ": "); text != "" && !slices.Contains(words, text) {
			words = append(words, text)
		}
	}
	if pod != nil {
		say(pod.Status.Reason, pod.Status.Message)
		for _, c := range pod.Status.Conditions {
			if c.Status == corev1.ConditionFalse && c.Type == corev1.PodScheduled ||
				c.Status == corev1.ConditionTrue && c.Type == corev1.DisruptionTarget {
				say(c.Reason, c.Message)
			}
		}
		for _, s := range containersOf(pod) {
			if w := s.State.Waiting; w != nil {
				say(w.Reason, w.Message)
			}
			if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
				say(t.Reason, t.Message)
			}
		}
	}
	for _, e := range p.warnings() {
		say(e.Reason, e.Message)
	}
	details := strings.Join(words, "; ")
	return p.error(pod, strings.ToValidUTF8(details[:min(len(details), maxDetails)], ""), cause)
}

// warnings returns the last warnings about the pod. It returns none if they cannot be read.
func (p *pod) warnings() []corev1.Event {
	ctx, cancel := context.WithTimeout(context.Background(), eventsBound)
	defer cancel()
	list, err := p.events.List(ctx, metav1.ListOptions{FieldSelector: fields.Set{
		"involvedObject.name": p.object.Name, "involvedObject.uid": string(p.uid),
		"type": corev1.EventTypeWarning,
	}.String()})
	if err != nil {
		return nil
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int {
		return a.LastTimestamp.Compare(b.LastTimestamp.Time)
	})
	return list.Items[max(0, len(list.Items)-maxEvents):]
}

package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/transport"
)

const (
	// requestBound bounds a request after the start's context has ended. Without an
	// answer nobody knows whether the request was carried out.
	requestBound = 10 * time.Second
	// removeBound bounds the removal of a pod, and goneBound the wait for the kubelet in it.
	removeBound = 30 * time.Second
	goneBound   = 10 * time.Second
	// lateBound is how long a request may be on its way after its connection has failed.
	lateBound = time.Second
	// firstPause is the pause after a failed request. It doubles up to lastPause.
	firstPause = 50 * time.Millisecond
	lastPause  = 5 * time.Second
	// maxPrefix is the longest prefix of a name. Names become host names, of at most 63
	// bytes, and 33 are for the id.
	maxPrefix = 30
)

// pod is a pod with its Secret.
type pod struct {
	pods      corev1client.PodInterface
	secrets   corev1client.SecretInterface
	events    corev1client.EventInterface
	object    *corev1.Pod
	ticket    string
	container string    // the name of the child's
	program   string    // that the container runs, or ""
	uid       types.UID // "" until the pod is known to exist
	unsure    bool      // nobody knows whether it was created
	keep      bool
}

// newPod checks the fields and returns a pod that is not created.
func (k *Launcher) newPod(l *forkspawn.Launch) (*pod, error) {
	if k.Client == nil {
		return nil, errors.New("field Client: it is nil")
	}
	object := &corev1.Pod{
		ObjectMeta: *k.Template.ObjectMeta.DeepCopy(), Spec: *k.Template.Spec.DeepCopy(),
	}
	if err := checkAddr(l.Ticket.Addr, object.Spec.HostNetwork); err != nil {
		return nil, err
	}
	switch {
	case k.Namespace != "":
		object.Namespace = k.Namespace
	case object.Namespace == "":
		object.Namespace = metav1.NamespaceDefault
	}
	prefix := object.Name
	if prefix == "" {
		prefix = "spawnwire"
	}
	prefix = strings.TrimRight(prefix[:min(len(prefix), maxPrefix)], "-.")
	object.Name, object.GenerateName = prefix+"-"+l.Ticket.ID, ""
	if object.Labels == nil {
		object.Labels = make(map[string]string)
	}
	object.Labels["app.kubernetes.io/managed-by"] = "spawnwire"
	if k.Owner != nil {
		object.OwnerReferences = append(object.OwnerReferences, *k.Owner)
	}
	switch object.Spec.RestartPolicy {
	case "", corev1.RestartPolicyNever:
		object.Spec.RestartPolicy = corev1.RestartPolicyNever
	default:
		return nil, fmt.Errorf("field Template: the RestartPolicy is %s, and a child needs Never",
			object.Spec.RestartPolicy)
	}
	at := slices.IndexFunc(object.Spec.Containers, func(c corev1.Container) bool {
		return k.Container == "" || c.Name == k.Container
	})
	if at < 0 {
		return nil, fmt.Errorf("field Container: Template has no container %q", k.Container)
	}
	container := &object.Spec.Containers[at]
	if err := setProgram(container, l); err != nil {
		return nil, err
	}
	mountTicket(object, container)
	p := &pod{
		pods:    k.Client.CoreV1().Pods(object.Namespace),
		secrets: k.Client.CoreV1().Secrets(object.Namespace),
		events:  k.Client.CoreV1().Events(object.Namespace),
		object:  object, ticket: l.Ticket.Encode(), container: container.Name, keep: k.Keep,
	}
	if len(container.Command) > 0 {
		p.program = container.Command[0]
	}
	return p, nil
}

// checkAddr checks whether a child in a pod can connect to an address.
func checkAddr(addr transport.Addr, hostNetwork bool) error {
	if addr.Network() != "tcp" {
		return fmt.Errorf("Config.Listen: a pod cannot connect to %s; use tls:// and an address "+
			"that pods can reach", addr)
	}
	host, _, _ := net.SplitHostPort(addr.Target)
	ip, err := netip.ParseAddr(host)
	if err == nil && ip.Unmap().IsLoopback() && !hostNetwork {
		return fmt.Errorf("Config.Listen: %s is the loopback interface of each pod; "+
			"use an address that pods can reach", addr.Target)
	}
	return nil
}

// setProgram sets the program, its arguments, environment and directory.
func setProgram(c *corev1.Container, l *forkspawn.Launch) error {
	if l.Path != "" {
		c.Command, c.Args = []string{literal(l.Path)}, nil
	}
	if len(l.Args) > 0 || l.Path != "" {
		c.Args = make([]string, len(l.Args))
		for i, arg := range l.Args {
			c.Args[i] = literal(arg)
		}
	}
	if l.Dir != "" {
		if !path.IsAbs(l.Dir) {
			return &fs.PathError{Op: "chdir", Path: l.Dir,
				Err: errors.New("in a pod the directory must be an absolute path")}
		}
		c.WorkingDir = l.Dir
	}
	env := append(slices.Clone(l.Env), handshake.TicketEnv+"=file:"+access.TicketFile)
	for _, entry := range env {
		name, value, ok := strings.Cut(entry, "=")
		if !ok || name == "" {
			continue // as in os/exec
		}
		c.Env = slices.DeleteFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name })
		c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: literal(value)})
	}
	return nil
}

// literal returns s without the meaning that $(NAME) has in a pod.
func literal(s string) string { return strings.ReplaceAll(s, "$", "$$") }

const (
	ticketVolume = "spawnwire-ticket"
	ticketKey    = "ticket"
)

// mountTicket mounts the Secret into the child's container, and into no other. Files of a
// Secret belong to root and to the group FSGroup. So without such a group the program can
// read its ticket as another user only if all processes of the container can.
func mountTicket(object *corev1.Pod, c *corev1.Container) {
	mode := int32(0o444)
	if sc := object.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		mode = 0o400 // the kubelet adds the group
	}
	object.Spec.Volumes = append(object.Spec.Volumes, corev1.Volume{
		Name: ticketVolume,
		VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
			SecretName: object.Name, DefaultMode: &mode,
			Items: []corev1.KeyToPath{{Key: ticketKey, Path: path.Base(access.TicketFile)}},
		}},
	})
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{
		Name: ticketVolume, MountPath: path.Dir(access.TicketFile), ReadOnly: true,
	})
}

// create creates the pod and then its Secret. The pod waits for the Secret. After an error
// the caller calls remove.
func (p *pod) create(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, cancel := outlive(ctx, requestBound)
	defer cancel()
	created, err := p.pods.Create(ctx, p.object, metav1.CreateOptions{})
	if err != nil {
		p.unsure = !isAnswer(err)
		return p.refused(err)
	}
	p.uid = created.UID
	_, err = p.secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: p.object.Name, Namespace: p.object.Namespace, Labels: p.object.Labels,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: p.object.Name, UID: p.uid,
			}},
		},
		Immutable:  new(true), // so the kubelet does not look for it again
		StringData: map[string]string{ticketKey: p.ticket},
	}, metav1.CreateOptions{})
	if err != nil {
		return p.refused(err)
	}
	return nil
}

// outlive returns a context that ends some time after ctx has. A request that was sent is
// not broken off at once, because its effect would be unknown.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(by, cancel) })
	return longer, func() { stop(); cancel() }
}

// delete deletes the pod. A nil grace is that of the pod, and 0 does not wait for the
// kubelet.
func (p *pod) delete(ctx context.Context, grace *int64) error {
	options := metav1.DeleteOptions{GracePeriodSeconds: grace}
	if p.uid != "" {
		options.Preconditions = &metav1.Preconditions{UID: &p.uid}
	}
	err := p.pods.Delete(ctx, p.object.Name, options)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // or another pod has the name
		return nil
	}
	return err
}

// deleteSecret deletes the Secret.
func (p *pod) deleteSecret(ctx context.Context) error {
	err := p.secrets.Delete(ctx, p.object.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// remove deletes the pod and the Secret of a failed start, and waits until they are gone.
// If the Secret cannot be deleted, the cluster deletes it with the pod.
func (p *pod) remove() error {
	if p.uid == "" && !p.unsure {
		return nil // the API server has refused it
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeBound)
	defer cancel()
	if p.uid != "" {
		retry(ctx, p.deleteSecret)
	}
	deleteWith := func(grace int64) error {
		return retry(ctx, func(ctx context.Context) error { return p.delete(ctx, &grace) })
	}
	if err := deleteWith(1); err != nil {
		return err
	}
	if p.unsure && sleep(ctx, lateBound) { // for a request that is still on its way
		if err := deleteWith(1); err != nil {
			return err
		}
	}
	soon, stop := context.WithTimeout(ctx, goneBound)
	defer stop()
	if retry(soon, p.isGone) == nil {
		return nil
	}
	return deleteWith(0) // the node does not answer, and the child has no ticket any more
}

var errThere = errors.New("the pod is still there")

// isGone returns nil if the pod does not exist.
func (p *pod) isGone(ctx context.Context) error {
	got, err := p.pods.Get(ctx, p.object.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && p.uid != "" && got.UID != p.uid:
		return nil
	case err != nil:
		return err
	}
	return errThere
}

// retry calls f until it returns nil, its error is a refusal, or ctx ends.
func retry(ctx context.Context, f func(context.Context) error) error {
	pause := firstPause
	for {
		err := f(ctx)
		if err == nil || isRefusal(err) || !sleep(ctx, pause) {
			return err
		}
		pause = min(2*pause, lastPause)
	}
}

// isAnswer reports whether the API server has refused a request, and not failed in it.
func isAnswer(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Code < 500
}

// isRefusal reports whether an error of the API server comes again with the same request.
func isRefusal(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) ||
		apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
}

// sleep waits, and reports whether ctx has not ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

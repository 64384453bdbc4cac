// Package kubernetes starts children in pods of a Kubernetes cluster.
//
//	spawner, err := forkspawn.New(forkspawn.Config{Listen: anyTLS, Advertise: ownAddress})
//	pods := &kubernetes.Launcher{Client: clientset, Template: template}
//	inside := forkspawn.WithCommand(forkspawn.Command{Launcher: pods})
//	child, err := spawner.Spawn(ctx, spec, inside)
//
// Each child has a pod of its own, which is gone when the child is. The image has the
// program, which calls forkspawn.Init or Join first thing in main, like every child. It
// connects to this process over TLS, so Config.Listen is an address that pods can reach,
// with the scheme tls. In a cluster that is the address of this process's own pod.
//
// The ticket with its secret is a Secret that belongs to the pod, and a file in the
// container. It is never an argument, in the environment or in a log. The launcher deletes
// the Secret as soon as the container runs.
//
// The child ends when its connection to this process ends. [Launcher.Owner] lets the
// cluster delete the pod, too, after the death of this process.
package kubernetes

import (
	"context"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/launch/internal/session"
	_ "github.com/spawnwire/spawnwire/transport/tls" // children connect with it
)

// Launcher starts children in pods. It implements forkspawn.Launcher. A Launcher must not
// be changed after its first use, and its methods may be called concurrently.
//
// The child's Command.Path is a program of the image, and "" is the command of the
// container in Template, or else of the image. The pod has no standard input. Kubernetes
// keeps stdout and stderr in one log, so both go to the child's stderr here, or to its
// stdout if stderr is the null device.
//
// SIGTERM and SIGINT delete the pod, with the grace of Template. SIGKILL deletes it with
// a grace of a second. Kubernetes has no other signals for processes, so the error of
// others matches errors.ErrUnsupported.
type Launcher struct {
	// Client is the client of the cluster. A start needs about six requests, and
	// client-go allows five in a second by default: see QPS in rest.Config.
	Client kubernetes.Interface
	// Namespace is where the pods are. "" is that of Template, or else "default".
	Namespace string
	// Template is the pod of each child, with image, resources and service account. The
	// launcher adds the name, a volume with the ticket, and the program with its
	// arguments, environment and directory. RestartPolicy must be Never or "".
	Template corev1.PodTemplateSpec
	// Container is the name of the child's container in Template. "" is the first one.
	Container string
	// Owner is the object in the same namespace that owns the pods, or nil. When it is
	// deleted, the cluster deletes them. A parent in a pod sets its own pod, with the
	// name and the uid from the downward API.
	Owner *metav1.OwnerReference
	// Keep keeps the pod of a child that has failed after its start, for kubectl logs
	// and describe. The caller deletes it. A child that SIGTERM or SIGKILL has ended
	// leaves no pod, because that signal is the deletion.
	Keep bool
}

var _ forkspawn.Launcher = (*Launcher)(nil)

// Launch implements forkspawn.Launcher. It returns when the container runs. Its error is an
// [*Error] if the cluster has reported it.
func (k *Launcher) Launch(
	ctx context.Context, l *forkspawn.Launch,
) (_ forkspawn.Launched, err error) {
	p, err := k.newPod(l)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	var output *os.File
	if f := outputOf(l); f != nil {
		if output, err = session.Duplicate(f); err != nil {
			return nil, fmt.Errorf("kubernetes: %w", err)
		}
	}
	c := newChild(p, output)
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	l.Go(c.live)
	return c, nil
}

// outputOf returns the file for the log of the container, or nil.
func outputOf(l *forkspawn.Launch) *os.File {
	if l.Stderr != nil {
		return l.Stderr
	}
	return l.Stdout
}

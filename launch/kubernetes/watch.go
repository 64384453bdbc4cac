package kubernetes

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiwatch "k8s.io/apimachinery/pkg/watch"
)

const (
	// watchSeconds bounds one watch. A watch that says nothing may be dead, so the pod
	// is read again after it.
	watchSeconds = 300
	// answerBound bounds the wait for an answer of the API server.
	answerBound = 30 * time.Second
)

// state is a pod at a moment.
type state struct {
	pod  *corev1.Pod // as it was last seen
	gone bool
}

// watch follows a pod. Only one goroutine may use it at a time.
type watch struct {
	*pod
	state state
	open  apiwatch.Interface // or nil
	close context.CancelFunc // of open
	fresh bool               // state was not returned yet
	pause time.Duration
	err   error // of the last request, or nil
}

func (p *pod) newWatch() *watch { return &watch{pod: p, pause: firstPause} }

// stop ends the watch.
func (w *watch) stop() {
	if w.open != nil {
		w.open.Stop()
		w.close()
		w.open = nil
	}
}

// next returns the next state of the pod. If a watch breaks off or expires, next reads the
// pod and watches it again, with a pause after errors. It returns false if ctx has ended,
// or w.err is a refusal and strict is true.
func (w *watch) next(ctx context.Context, strict bool) (state, bool) {
	for ctx.Err() == nil && !w.state.gone {
		if w.open == nil {
			err := w.begin(ctx)
			if ctx.Err() != nil {
				break // the end of ctx explains nothing
			}
			w.err = err
			switch {
			case err == nil:
				w.pause = firstPause
			case strict && isRefusal(w.err):
				return w.state, false
			default:
				sleep(ctx, w.pause)
				w.pause = min(2*w.pause, lastPause)
			}
		} else {
			w.receive(ctx)
		}
		if w.fresh {
			w.fresh = false
			return w.state, true
		}
	}
	return w.state, w.state.gone
}

// see sets the state.
func (w *watch) see(pod *corev1.Pod, gone bool) {
	if pod != nil {
		w.state.pod = pod
	}
	w.state.gone, w.fresh = gone, true
}

// begin reads the pod and watches it from there.
func (w *watch) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerBound)
	defer cancel()
	got, err := w.pods.Get(ctx, w.object.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && got.UID != w.uid:
		w.see(nil, true)
		return nil
	case err != nil:
		return err
	}
	w.see(got, false)
	// Its answer is bounded by ctx, and the events are not.
	open, stop := context.WithCancel(context.Background())
	defer context.AfterFunc(ctx, stop)()
	w.open, err = w.pods.Watch(open, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector("metadata.name", w.object.Name).String(),
		ResourceVersion: got.ResourceVersion, TimeoutSeconds: new(int64(watchSeconds)),
	})
	if err != nil {
		stop()
		w.open = nil
		return err
	}
	w.close = stop
	return nil
}

// receive takes one event.
func (w *watch) receive(ctx context.Context) {
	select {
	case event, ok := <-w.open.ResultChan():
		got, isPod := event.Object.(*corev1.Pod)
		switch {
		case !ok || event.Type == apiwatch.Error: // 410 Gone, for example
			w.stop()
			sleep(ctx, firstPause)
		case !isPod || got.UID != w.uid:
		case event.Type == apiwatch.Deleted:
			w.see(got, true)
			w.stop()
		case event.Type == apiwatch.Added, event.Type == apiwatch.Modified:
			w.see(got, false)
		}
	case <-ctx.Done():
	}
}

//go:build linux

package kubernetes_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// apiServer is a small API server for pods, Secrets, events and logs. It keeps to the rules
// of Kubernetes that the launcher relies on: versions, watches and their expiry, graceful
// deletion, preconditions and owners.
type apiServer struct {
	t   testing.TB
	url string

	mu      sync.Mutex // guards what follows
	version int
	pods    map[string]*corev1.Pod
	secrets map[string]*corev1.Secret
	events  []corev1.Event
	history []change
	oldest  int                // the lowest version that a watch can begin at
	changed chan struct{}      // closed, and replaced, when something changes
	breaks  chan struct{}      // closed, and replaced, to break all watches
	lines   map[string]*logged // by the name of the pod
	seen    []string           // all requests, as "create pods"
	answer  func(request string) *metav1.Status
	hold    func(request string) <-chan struct{}
	drop    func(request string) bool // breaks the connection, and carries out the request later
	closed  bool
}

// change is an event of a watch.
type change struct {
	version int
	kind    string
	pod     *corev1.Pod
}

// logged is the log of a container.
type logged struct {
	lines []string // with their times
	ended bool
}

func newAPIServer(t testing.TB) *apiServer {
	a := &apiServer{t: t, pods: map[string]*corev1.Pod{}, secrets: map[string]*corev1.Secret{},
		changed: make(chan struct{}), breaks: make(chan struct{}), lines: map[string]*logged{}}
	s := httptest.NewServer(a)
	a.url = s.URL
	t.Cleanup(func() {
		a.locked(func() { a.closed = true; a.notify() })
		s.CloseClientConnections()
		s.Close()
	})
	return a
}

// newClient returns a client for JSON, without a limit on its rate.
func newClient(url string) (*client.Clientset, error) {
	return client.NewForConfig(&rest.Config{Host: url, QPS: -1,
		ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
}

func (a *apiServer) locked(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// notify wakes all that wait for a change.
func (a *apiServer) notify() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// breakWatches breaks all watches. expire lets their versions be too old afterwards.
func (a *apiServer) breakWatches(expire bool) {
	a.locked(func() {
		close(a.breaks)
		a.breaks = make(chan struct{})
		if expire {
			a.version++
			a.oldest = a.version
			a.history = nil
		}
	})
}

// update changes a pod, unless it is gone.
func (a *apiServer) update(name string, f func(*corev1.Pod)) {
	a.locked(func() {
		if pod := a.pods[name]; pod != nil {
			pod = pod.DeepCopy()
			f(pod)
			a.put("MODIFIED", pod)
		}
	})
}

// put stores a new version of a pod.
func (a *apiServer) put(kind string, pod *corev1.Pod) {
	a.version++
	pod.ResourceVersion = strconv.Itoa(a.version)
	if kind == "DELETED" {
		delete(a.pods, pod.Name)
		for name, secret := range a.secrets { // as the garbage collector does
			if slices.ContainsFunc(secret.OwnerReferences, func(o metav1.OwnerReference) bool {
				return o.UID == pod.UID
			}) {
				delete(a.secrets, name)
			}
		}
	} else {
		a.pods[pod.Name] = pod
	}
	a.history = append(a.history, change{a.version, kind, pod})
	a.notify()
}

// collect deletes the pods of an owner, as the garbage collector does.
func (a *apiServer) collect(owner types.UID) {
	var names []string
	a.locked(func() {
		for name, pod := range a.pods {
			if slices.ContainsFunc(pod.OwnerReferences, func(o metav1.OwnerReference) bool {
				return o.UID == owner
			}) {
				names = append(names, name)
			}
		}
	})
	for _, name := range names {
		a.locked(func() { a.remove(name, metav1.DeleteOptions{}) })
	}
}

// remove deletes a pod by the rules of graceful deletion.
func (a *apiServer) remove(name string, o metav1.DeleteOptions) *metav1.Status {
	pod := a.pods[name]
	switch {
	case pod == nil:
		return failure(http.StatusNotFound, metav1.StatusReasonNotFound, "pods", name)
	case o.Preconditions != nil && *o.Preconditions.UID != pod.UID:
		return failure(http.StatusConflict, metav1.StatusReasonConflict, "pods", name)
	}
	pod = pod.DeepCopy()
	grace := int64(30)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		grace = *pod.Spec.TerminationGracePeriodSeconds
	}
	if o.GracePeriodSeconds != nil {
		grace = *o.GracePeriodSeconds
	}
	over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if over || pod.Spec.NodeName == "" || grace == 0 {
		a.put("DELETED", pod)
		return nil
	}
	if pod.DeletionGracePeriodSeconds == nil || grace < *pod.DeletionGracePeriodSeconds {
		pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		pod.DeletionGracePeriodSeconds = &grace
		a.put("MODIFIED", pod)
	}
	return nil
}

func failure(code int32, reason metav1.StatusReason, kind, text string) *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status: metav1.StatusFailure, Code: code, Reason: reason, Message: kind + ": " + text,
		Details: &metav1.StatusDetails{Kind: kind, Name: text}}
}

const namespace = "spawn"

// ServeHTTP answers a request for /api/v1/namespaces/NAMESPACE/KIND/NAME/log.
func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	part := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/"), "/")
	part = append(part, "", "", "")
	kind, name := part[1], part[2]
	request := map[string]string{"POST": "create", "GET": "get", "DELETE": "delete"}[r.Method]
	switch {
	case part[3] != "":
		kind += "/" + part[3]
	case r.URL.Query().Has("watch"):
		request = "watch"
	case request == "get" && name == "":
		request = "list"
	}
	request += " " + kind
	var refused *metav1.Status
	var hold <-chan struct{}
	var drop bool
	a.locked(func() {
		a.seen = append(a.seen, request)
		if a.hold != nil {
			hold = a.hold(request)
		}
		if a.answer != nil {
			refused = a.answer(request)
		}
		drop = a.drop != nil && a.drop(request)
	})
	if drop {
		body, _ := io.ReadAll(r.Body)
		time.AfterFunc(300*time.Millisecond, func() {
			r.Body = io.NopCloser(bytes.NewReader(body))
			a.locked(func() { a.do(request, name, r) })
		})
		panic(http.ErrAbortHandler)
	}
	if hold != nil {
		<-hold
	}
	if part[0] != namespace {
		refused = failure(http.StatusNotFound, metav1.StatusReasonNotFound, "namespaces", part[0])
	}
	switch {
	case refused != nil:
		reply(w, refused)
	case request == "watch pods":
		a.watch(w, r)
	case request == "get pods/log":
		a.log(w, r, name)
	default:
		var out any
		a.locked(func() { out = a.do(request, name, r) })
		reply(w, out)
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if s, ok := v.(*metav1.Status); ok && s.Code != 0 {
		w.WriteHeader(int(s.Code))
	}
	json.NewEncoder(w).Encode(v)
}

// do carries out a request that needs no stream.
func (a *apiServer) do(request, name string, r *http.Request) any {
	done := &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status: metav1.StatusSuccess}
	decode := func(v any) {
		if err := json.NewDecoder(r.Body).Decode(v); err != nil {
			a.t.Errorf("%s: %v", request, err)
		}
	}
	switch request {
	case "create pods":
		pod := new(corev1.Pod)
		decode(pod)
		pod.UID = types.UID(fmt.Sprintf("uid-%d", a.version))
		pod.Status.Phase = corev1.PodPending
		a.put("ADDED", pod)
		return pod
	case "get pods":
		if pod := a.pods[name]; pod != nil {
			return pod
		}
		return failure(http.StatusNotFound, metav1.StatusReasonNotFound, "pods", name)
	case "delete pods":
		var o metav1.DeleteOptions
		decode(&o)
		if refused := a.remove(name, o); refused != nil {
			return refused
		}
		return done
	case "create secrets":
		secret := new(corev1.Secret)
		decode(secret)
		a.secrets[secret.Name] = secret
		a.notify()
		return secret
	case "delete secrets":
		if a.secrets[name] == nil {
			return failure(http.StatusNotFound, metav1.StatusReasonNotFound, "secrets", name)
		}
		delete(a.secrets, name)
		a.notify()
		return done
	case "list events":
		list := &corev1.EventList{TypeMeta: metav1.TypeMeta{Kind: "EventList", APIVersion: "v1"}}
		for _, e := range a.events {
			if strings.Contains(r.URL.Query().Get("fieldSelector"), e.InvolvedObject.Name) {
				list.Items = append(list.Items, e)
			}
		}
		return list
	}
	return failure(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, request, name)
}

// watch sends the changes of one pod.
func (a *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	send := func(kind string, object any) {
		out.Encode(map[string]any{"type": kind, "object": object})
		w.(http.Flusher).Flush()
	}
	w.(http.Flusher).Flush()
	var breaks chan struct{}
	a.locked(func() { breaks = a.breaks })
	for {
		var todo []change
		var changed chan struct{}
		var expired, closed bool
		a.locked(func() {
			changed, closed = a.changed, a.closed
			expired = from < a.oldest
			for _, c := range a.history {
				if c.version > from {
					todo = append(todo, c)
				}
			}
		})
		if expired {
			send("ERROR", failure(http.StatusGone, metav1.StatusReasonExpired, "pods",
				"too old resource version"))
			return
		}
		for _, c := range todo {
			if from = c.version; c.pod.Name == name {
				send(c.kind, c.pod)
			}
		}
		if closed {
			return
		}
		select {
		case <-changed:
		case <-breaks:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// log sends the log of a pod, and follows it.
func (a *apiServer) log(w http.ResponseWriter, r *http.Request, name string) {
	since, _ := time.Parse(time.RFC3339, r.URL.Query().Get("sinceTime"))
	w.(http.Flusher).Flush()
	var breaks chan struct{}
	a.locked(func() { breaks = a.breaks })
	for n := 0; ; {
		var lines []string
		var changed chan struct{}
		var ended bool
		a.locked(func() {
			if l := a.lines[name]; l != nil {
				lines, ended = l.lines[n:], l.ended
			}
			changed, ended = a.changed, ended || a.closed
		})
		n += len(lines)
		for _, line := range lines {
			text, _, _ := strings.Cut(line, " ")
			if at, err := time.Parse(time.RFC3339Nano, text); err == nil && !at.Before(since) {
				w.Write([]byte(line))
			}
		}
		w.(http.Flusher).Flush()
		if ended {
			return
		}
		select {
		case <-changed:
		case <-breaks:
			return
		case <-r.Context().Done():
			return
		}
	}
}

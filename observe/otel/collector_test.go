//go:build unix

package otel_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector is a receiver of OTLP over HTTP, on the loopback interface.
type collector struct {
	*httptest.Server

	mu  sync.Mutex // guards all
	all []span
}

// span is a span with its attributes, and with two of its process's.
type span struct {
	*tracepb.Span
	service    string
	pid        string
	attributes map[string]string
}

func newCollector() *collector {
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(c.receive))
	return c
}

func (c *collector) receive(w http.ResponseWriter, r *http.Request) {
	var request collectorpb.ExportTraceServiceRequest
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(body, &request)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL.Path, ": ", err), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, process := range request.ResourceSpans {
		of := values(process.Resource.Attributes)
		for _, scope := range process.ScopeSpans {
			for _, s := range scope.Spans {
				c.all = append(c.all,
					span{s, of["service.name"], of["process.pid"], values(s.Attributes)})
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// values returns attributes as texts.
func values(attributes []*commonpb.KeyValue) map[string]string {
	m := make(map[string]string)
	for _, a := range attributes {
		switch v := a.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			m[a.Key] = fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_DoubleValue:
			m[a.Key] = fmt.Sprint(v.DoubleValue)
		case *commonpb.AnyValue_BoolValue:
			m[a.Key] = fmt.Sprint(v.BoolValue)
		}
	}
	return m
}

// spans returns the spans of that name, or all spans if it is empty, by their starts.
func (c *collector) spans(name string) (found []span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.all {
		if name == "" || s.Name == name {
			found = append(found, s)
		}
	}
	slices.SortStableFunc(found, func(a, b span) int {
		return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano))
	})
	return found
}

// tree returns a line for each span below the one with the id, without the steps of
// starts.
func (c *collector) tree(parent []byte, indent string) (lines []string) {
	for _, s := range c.spans("") {
		if string(s.ParentSpanId) != string(parent) || strings.HasPrefix(s.Name, "spawn ") {
			continue
		}
		kind := strings.ToLower(strings.TrimPrefix(s.Kind.String(), "SPAN_KIND_"))
		line := fmt.Sprintf("%s%s: %s %s", indent, s.service, kind, s.Name)
		if s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR {
			line += ": " + s.attributes["error.type"] + ": " + s.Status.Message
		}
		lines = append(lines, line)
		lines = append(lines, c.tree(s.SpanId, indent+"  ")...)
	}
	return lines
}

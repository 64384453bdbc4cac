package call

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/spawnwire/spawnwire/internal/cbor"
	"github.com/spawnwire/spawnwire/internal/frame"
)

// Metadata goes with a call, for tracing. A handler's context has the metadata of
// its call. Calls with this context have the same metadata. [Trace.Began] can change it
// for each call.
type Metadata map[string]string

const (
	maxMetadata = 4 << 10 // bytes of encoded metadata
	maxPairs    = 32
)

type metadataKey struct{}

// WithMetadata returns a context for calls with the metadata, and no other. The
// limit is 32 pairs and 4 KiB: a call with more fails with [CodeTooLarge].
func WithMetadata(ctx context.Context, m Metadata) context.Context {
	return context.WithValue(ctx, metadataKey{}, maps.Clone(m))
}

// MetadataOf returns the metadata of a handler's context, or of a context from
// WithMetadata. The caller must not change it.
func MetadataOf(ctx context.Context) Metadata {
	m, _ := ctx.Value(metadataKey{}).(Metadata)
	return m
}

// encode returns the encoded metadata, in the order of its keys.
func (m Metadata) encode() ([]byte, error) {
	if len(m) == 0 {
		return nil, nil
	}
	if len(m) > maxPairs {
		return nil, fmt.Errorf("%d pairs of metadata; the limit is %d", len(m), maxPairs)
	}
	var w cbor.Writer
	w.Array(2 * len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		w.Text(frame.Text(key, maxMetadata))
		w.Text(frame.Text(m[key], maxMetadata))
	}
	if n := len(w.Encoded()); n > maxMetadata {
		return nil, fmt.Errorf("%d bytes of metadata; the limit is %d", n, maxMetadata)
	}
	return w.Encoded(), nil
}

func parseMetadata(encoded []byte) (Metadata, error) {
	if len(encoded) == 0 {
		return nil, nil
	}
	r := cbor.NewReader(encoded)
	texts := r.Texts()
	if err := r.End(); err != nil {
		return nil, err
	}
	if len(texts)%2 != 0 {
		return nil, fmt.Errorf("metadata of %d texts", len(texts))
	}
	m := make(Metadata, len(texts)/2)
	for i := 0; i < len(texts); i += 2 {
		m[texts[i]] = texts[i+1]
	}
	return m, nil
}

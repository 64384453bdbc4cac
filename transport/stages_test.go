package transport_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/transport"
)

// endless is a connection without a kernel. It drops all output, and its input is the same
// frame again and again.
type endless struct {
	net.Conn
	data []byte
	next int
}

func (e *endless) Write(p []byte) (int, error) { return len(p), nil }

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.data[e.next:])
	e.next = (e.next + n) % len(e.data)
	return n, nil
}

func (e *endless) SetReadDeadline(time.Time) error  { return nil }
func (e *endless) SetWriteDeadline(time.Time) error { return nil }
func (e *endless) Close() error                     { return nil }

// BenchmarkStages measures the parts of the time for a message of 64 bytes, without the
// kernel.
func BenchmarkStages(b *testing.B) {
	type small struct {
		ID   uint64          `cbor:"1,keyasint"`
		Body transport.Bytes `cbor:"2,keyasint"`
	}
	msg, got := &small{1, make([]byte, 56)}, new(small)
	item, err := cbor.Marshal(msg)
	require.NoError(b, err)
	repeated := func(f []byte) *transport.Channel {
		e := &endless{}
		for len(e.data) < 64<<10 {
			e.data = append(e.data, f...)
		}
		return open(b, e, transport.Config{})
	}
	raw, typed := repeated(frameOf(frame.KindRaw, make([]byte, 64)...)),
		repeated(frameOf(frame.KindMessage, item...))
	batch := raw.NewBatch()
	never := context.Background()
	ends, cancel := context.WithCancel(never)
	defer cancel()
	p := make([]byte, 64)
	for _, stage := range []struct {
		name string
		run  func() error
	}{
		{"CBOR alone, encode", func() error { _, err := cbor.Marshal(msg); return err }},
		{"CBOR alone, decode", func() error { return cbor.Unmarshal(item, got) }},
		{"SendBytes", func() error { return raw.SendBytes(never, p) }},
		{"SendBytes, context that can end", func() error { return raw.SendBytes(ends, p) }},
		{"Send", func() error { return raw.Send(never, msg) }},
		{"Batch.SendBytes", func() error { return batch.SendBytes(never, p) }},
		{"Batch.Send", func() error { return batch.Send(never, msg) }},
		{"RecvBytes", func() error { _, err := raw.RecvBytes(never, p); return err }},
		{"RecvBytes, context that can end", func() error {
			_, err := raw.RecvBytes(ends, p)
			return err
		}},
		{"RecvBorrowed", func() error { _, err := raw.RecvBorrowed(never); return err }},
		{"Recv", func() error { return typed.Recv(never, got) }},
	} {
		b.Run(stage.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := stage.run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

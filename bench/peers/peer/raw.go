package peer

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// raw is the floor in Go: messages of fixed size with Write and io.ReadFull on a
// net.Conn, without framing or encoding. With batched, both sides of a stream use
// bufio with 64 KiB, so one system call has many messages. For Senders one
// goroutine writes all messages; with shared, all goroutines write. For Callers one
// goroutine makes all round trips. For Beside the large messages have connections of
// their own, so the result shows their cost for the machine.
type raw struct{ batched, shared bool }

func (p raw) Name() string {
	switch {
	case p.batched:
		return Floor + ", batched"
	case p.shared:
		return fmt.Sprintf("%s, %d goroutines", Floor, Goroutines)
	}
	return Floor
}

func (raw) Module() string { return "" }

func (p raw) Does(job Job) bool {
	switch {
	case p.batched:
		return job.Work == Stream // goroutines cannot share a bufio.Writer
	case p.shared:
		return job.Work == Senders
	}
	return job.Work != Unread && job.Work != Cancel
}

// rawBuffer is the size of the buffers of batched, in bytes.
const rawBuffer = 64 << 10

func (p raw) Open(ctx context.Context, job Job) (Worker, error) {
	s, conn, err := open(ctx, p, job)
	if err != nil {
		return nil, err
	}
	switch job.Work {
	case Beside:
		return rawBeside(ctx, s, conn, job)
	case RoundTrip, Callers:
		conns := connections{conn}
		for len(conns) < job.Connections {
			if conn, err = s.dial(ctx, job); err != nil {
				return nil, errors.Join(err, conns.Close(), s.Close())
			}
			conns = append(conns, conn)
		}
		in, next := make([]byte, job.Size), 0
		return &roundTrips{size: job.Size, close: closer(conns, s),
			trip: func(payload []byte) ([]byte, error) {
				conn := conns[next]
				if next++; next == len(conns) {
					next = 0
				}
				return rawTrip(conn, payload, in)
			}}, nil
	}
	var w io.Writer = conn // concurrent Writes do not mix
	flush := func() error { return nil }
	if p.batched {
		buffered := bufio.NewWriterSize(conn, rawBuffer)
		w, flush = buffered, buffered.Flush
	}
	send := sendFunc(func(payload []byte) error {
		_, err := w.Write(payload)
		return err
	})
	if !p.shared {
		job.Work = Stream // one sender; for the receiver nothing changes
	}
	end := endPayload(job.Size)
	return &stream{job: job, open: each(send), close: closer(conn, s),
		report: func() (report, error) {
			if err := errors.Join(send(end), flush()); err != nil {
				return report{}, err
			}
			return readReport(conn)
		}}, nil
}

// rawBeside returns the caller's side of Beside. A connection begins with the size of
// its messages.
func rawBeside(ctx context.Context, s *server, first net.Conn, job Job) (Worker, error) {
	conns, sizes := connections{first}, []int{job.Size}
	for range 2 {
		conn, err := s.dial(ctx, job)
		if err != nil {
			return nil, errors.Join(err, conns.Close(), s.Close())
		}
		conns, sizes = append(conns, conn), append(sizes, job.Large)
	}
	for i, conn := range conns {
		b := binary.LittleEndian.AppendUint64(nil, uint64(sizes[i]))
		if _, err := conn.Write(b); err != nil {
			return nil, errors.Join(err, conns.Close(), s.Close())
		}
	}
	next := 0
	return (&caller{close: closer(conns, s), unary: func() trip {
		conn, in := conns[next], make([]byte, sizes[next])
		next++
		return func(payload []byte) ([]byte, error) { return rawTrip(conn, payload, in) }
	}}).worker(job), nil
}

func rawTrip(conn net.Conn, payload, in []byte) ([]byte, error) {
	if _, err := conn.Write(payload); err != nil {
		return nil, err
	}
	_, err := io.ReadFull(conn, in)
	return in, err
}

func readReport(r io.Reader) (report, error) {
	b := make([]byte, reportSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return report{}, err
	}
	return parseReport(b)
}

func (p raw) Serve(job Job, ready Ready) error {
	ln, err := ready.Listen(job)
	if err != nil {
		return err
	}
	defer ln.Close()
	n := max(1, job.Connections)
	if job.Work == Beside {
		n = 3
	}
	return serveAll(ln, n,
		func(conn net.Conn) error { return p.serve(conn, job) })
}

// connections is a list of connections with one Close.
type connections []net.Conn

func (c connections) Close() error {
	for _, conn := range c {
		conn.Close()
	}
	return nil
}

func (p raw) serve(conn net.Conn, job Job) error {
	if job.Work == Beside {
		var b [8]byte
		if _, err := io.ReadFull(conn, b[:]); err != nil {
			return err
		}
		job.Size = int(binary.LittleEndian.Uint64(b[:]))
	}
	buf := make([]byte, job.Size)
	if job.Work != Stream && job.Work != Senders {
		for {
			if _, err := io.ReadFull(conn, buf); err != nil {
				return err
			}
			if _, err := conn.Write(buf); err != nil {
				return err
			}
		}
	}
	var r io.Reader = conn
	if p.batched {
		r = bufio.NewReaderSize(conn, rawBuffer)
	}
	var got report
	for {
		if _, err := io.ReadFull(r, buf); err != nil {
			return err
		}
		if !got.take(buf) {
			continue
		}
		if _, err := conn.Write(got.bytes()); err != nil {
			return err
		}
		got = report{}
	}
}

// untilClosed returns nil for the error of a connection after the caller has closed
// it.
func untilClosed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

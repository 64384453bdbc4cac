package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
)

// raw is the floor for Go: messages of a size that both sides know, with Write and io.ReadFull on a net.Conn. There is no
// framing and no codec. With batched, both sides of a stream have a buffer of 64 KiB (bufio): many messages
// for each system call, the floor for what batches. The floor of the work Senders is one goroutine that writes as
// many messages; with shared, they all write.
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
	return true
}

// rawBuffer is the size of the buffers of a batched stream, in bytes.
const rawBuffer = 64 << 10

func (p raw) Open(ctx context.Context, job Job) (Worker, error) {
	s, conn, err := open(ctx, p, job)
	if err != nil {
		return nil, err
	}
	if job.Work == RoundTrip {
		conns := connections{conn}
		for len(conns) < job.Connections {
			if conn, err = s.dial(ctx, job); err != nil {
				return nil, errors.Join(err, conns.Close(), s.Close())
			}
			conns = append(conns, conn)
		}
		in, next := make([]byte, job.Size), 0
		return &roundTrips{size: job.Size, close: closer(conns, s), trip: func(payload []byte) ([]byte, error) {
			conn := conns[next]
			if next++; next == len(conns) {
				next = 0
			}
			if _, err := conn.Write(payload); err != nil {
				return nil, err
			}
			_, err := io.ReadFull(conn, in)
			return in, err
		}}, nil
	}
	var w io.Writer = conn // a Write is whole, also among others
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
		job.Work = Stream // for the sender, the receiver does the same
	}
	end := endPayload(job.Size)
	return &stream{job: job, open: each(send), close: closer(conn, s), report: func() (report, error) {
		if err := errors.Join(send(end), flush()); err != nil {
			return report{}, err
		}
		return readReport(conn)
	}}, nil
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
	return serveAll(ln, max(1, job.Connections), func(conn net.Conn) error { return p.serve(conn, job) })
}

// connections are closed together.
type connections []net.Conn

func (c connections) Close() error {
	for _, conn := range c {
		conn.Close()
	}
	return nil
}

func (p raw) serve(conn net.Conn, job Job) error {
	buf := make([]byte, job.Size)
	if job.Work == RoundTrip {
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

// untilClosed takes the end of the caller's connection for what it is: the end of the work.
func untilClosed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

//go:build unix

package forkspawn

import (
	"context"
	"io"
	"os"
	"sync"
	"syscall"
)

// pump reads a captured stream until its end: into a tail, and into a writer if there is one.
type pump struct {
	file *os.File // the pipe's read end
	conn syscall.RawConn
	sink *sink         // nil without a writer
	done chan struct{} // closed when the stream has ended

	mu   sync.Mutex // guards tail; held over one read that does not block
	tail tail
}

// readBuffers lends the buffer of one read: a thousand children that write nothing share none.
var readBuffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// newPump returns a pump, which the caller runs, and the pipe's write end, which the caller closes when the child has it.
func newPump(w io.Writer) (*pump, *os.File, error) {
	r, child, err := pipe()
	if err != nil {
		return nil, nil, err
	}
	conn, err := r.SyscallConn()
	if err != nil {
		r.Close()
		child.Close()
		return nil, nil, err
	}
	p := &pump{file: r, conn: conn, done: make(chan struct{})}
	if w != nil {
		p.sink = newSink(w)
	}
	return p, child, nil
}

// pipeFiles puts a pipe's read end into the runtime's poller and leaves its write end blocking, as a child
// expects of its standard streams. (os.Pipe makes both ends non-blocking.)
func pipeFiles(p [2]int) (r, w *os.File, err error) {
	if err := syscall.SetNonblock(p[0], true); err != nil {
		syscall.Close(p[0])
		syscall.Close(p[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(p[0]), "child's output"), os.NewFile(uintptr(p[1]), "child's end"), nil
}

// run reads until end is called, or the stream ends.
func (p *pump) run() {
	defer close(p.done)
	if p.sink != nil {
		go p.sink.run()
	}
	p.conn.Read(func(fd uintptr) bool {
		for {
			if n, err := p.readOnce(int(fd)); n <= 0 {
				return err != syscall.EAGAIN
			}
		}
	})
	if p.sink != nil {
		p.sink.close()
	}
}

// readOnce reads what one call gives and never blocks, as the pipe's read end is non-blocking.
func (p *pump) readOnce(fd int) (int, error) {
	buf := readBuffers.Get().(*[16 << 10]byte)
	defer readBuffers.Put(buf)
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		n, err := syscall.Read(fd, buf[:])
		if err == syscall.EINTR {
			continue
		}
		if n > 0 {
			p.tail.write(buf[:n])
			if p.sink != nil {
				p.sink.give(buf[:n])
			}
		}
		return n, err
	}
}

// maxSettle bounds, in reads, what settle takes from somebody who writes faster than we read.
const maxSettle = 256

// settle reads what is in the pipe now. Once a child has ended this is all that the child wrote, also
// when a grandchild keeps the pipe open.
func (p *pump) settle() {
	p.conn.Control(func(fd uintptr) {
		for range maxSettle {
			if n, _ := p.readOnce(int(fd)); n <= 0 {
				return
			}
		}
	})
}

// lastBytes returns the tail.
func (p *pump) lastBytes() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tail.String()
}

// end closes the pipe after the child has ended, with all that it wrote read, and gives the writer a
// moment for the rest. It reports whether that was enough: else the writer blocks, and its goroutine ends when
// it returns.
func (p *pump) end() (written bool) {
	p.settle()
	p.file.Close() // ends run
	<-p.done
	return p.sink == nil || awaitClosed(context.Background(), p.sink.done, sinkTimeout)
}

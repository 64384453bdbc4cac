//go:build unix

package capture

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/spawnwire/spawnwire/internal/wait"
)

// available reports whether this platform can capture a child's output.
const available = true

// Pump reads a captured stream until its end, into a tail and into a writer, if
// there is one.
type Pump struct {
	file  *os.File // the pipe's read end
	conn  syscall.RawConn
	sink  *sink         // nil without a writer
	watch func([]byte)  // of Streams.Watch, or nil
	stop  chan struct{} // closed by end
	done  chan struct{} // closed when the stream has ended

	mu   sync.Mutex // guards tail; held during one non-blocking read
	tail tail
}

// readBuffers has a buffer for each read in progress. So a silent child needs none.
var readBuffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// newPump returns a Pump and the write end of its pipe. The caller calls run, and
// closes the write end after the child has got it.
func newPump(w io.Writer, all bool, watch func() func([]byte)) (*Pump, *os.File, error) {
	r, child, err := pipe(0)
	if err != nil {
		return nil, nil, err
	}
	conn, err := r.SyscallConn()
	if err != nil {
		r.Close()
		child.Close()
		return nil, nil, err
	}
	p := &Pump{file: r, conn: conn, stop: make(chan struct{}), done: make(chan struct{})}
	if watch != nil {
		p.watch = watch()
	}
	if w != nil {
		p.sink = newSink(w, all)
	}
	return p, child, nil
}

// pipeFiles makes one end of a pipe non-blocking, for the runtime's poller: the read
// end if own is 0, and the write end if it is 1. The other end stays blocking,
// because a child expects that of its standard streams. (os.Pipe makes both ends
// non-blocking.)
func pipeFiles(p [2]int, own int) (r, w *os.File, err error) {
	if err := syscall.SetNonblock(p[own], true); err != nil {
		syscall.Close(p[0])
		syscall.Close(p[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(p[0]), "reading end of a child's stream"),
		os.NewFile(uintptr(p[1]), "writing end of a child's stream"), nil
}

// run reads until the end of the stream, or until end is called.
func (p *Pump) run() {
	defer close(p.done)
	if p.sink != nil {
		go p.sink.run()
	}
	for p.readUntilFull() {
		select {
		case <-p.sink.room:
		case <-p.stop:
		}
	}
	if p.sink != nil {
		p.sink.close()
	}
}

// readUntilFull reads until the end of the stream or until end is called. It returns
// true if the sink is full before. Meanwhile the child's writes fill the pipe.
func (p *Pump) readUntilFull() (full bool) {
	p.conn.Read(func(fd uintptr) bool {
		for {
			if full = p.sink != nil && p.sink.full() && !wait.Closed(p.stop); full {
				return true
			}
			if n, err := p.readOnce(int(fd)); n <= 0 {
				return !errors.Is(err, syscall.EAGAIN)
			}
		}
	})
	return full
}

// readOnce calls read(2) once. It does not block, because the read end is
// non-blocking.
func (p *Pump) readOnce(fd int) (int, error) {
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
			if p.watch != nil {
				p.watch(buf[:n])
			}
			if p.sink != nil {
				p.sink.give(buf[:n])
			}
		}
		return n, err
	}
}

// maxSettle bounds the reads of settle, because a grandchild can write without end.
const maxSettle = 256

// settle reads the current content of the pipe. After the child's end this is all
// of its output, even if a grandchild keeps the pipe open. Then settle waits for
// the writer, for WriterTimeout at most: a program may exit as soon as it hears
// of the death.
func (p *Pump) settle() {
	p.drain()
	if p.sink != nil {
		p.sink.flush()
	}
}

func (p *Pump) drain() {
	p.conn.Control(func(fd uintptr) {
		for range maxSettle {
			if n, _ := p.readOnce(int(fd)); n <= 0 {
				return
			}
		}
	})
}

// LastBytes returns the tail.
func (p *Pump) LastBytes() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tail.String()
}

// end reads the rest of the child's output, closes the pipe, and waits for the
// writer. It reports whether the writer was done in time. Otherwise the writer's
// goroutine ends when its Write returns.
func (p *Pump) end() (written bool) {
	p.drain()
	close(p.stop)
	p.file.Close() // ends run
	<-p.done
	if p.sink == nil || wait.For(context.Background(), p.sink.done, p.sink.patience()) {
		return true
	}
	p.sink.abandon()
	return false
}

// lost returns how many bytes the writer has not got and will not get.
func (p *Pump) lost() int64 {
	if p.sink == nil {
		return 0
	}
	return p.sink.lostBytes()
}

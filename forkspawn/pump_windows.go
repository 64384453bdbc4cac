package forkspawn

import (
	"context"
	"io"
	"os"
	"sync"
)

// pump reads a captured stream until its end: into a tail, and into a writer if there is one. Here it is
// for entries in this process alone, whose end of the pipe is closed when they end.
type pump struct {
	file *os.File
	sink *sink         // nil without a writer
	done chan struct{} // closed when the stream has ended

	mu   sync.Mutex // guards tail; never held over a read
	tail tail
}

// newPump returns a pump, which the caller runs, and the pipe's write end, which the caller closes.
func newPump(w io.Writer) (*pump, *os.File, error) {
	r, child, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	p := &pump{file: r, done: make(chan struct{})}
	if w != nil {
		p.sink = newSink(w)
	}
	return p, child, nil
}

func (p *pump) run() {
	defer close(p.done)
	if p.sink != nil {
		go p.sink.run()
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := p.file.Read(buf)
		p.mu.Lock()
		p.tail.write(buf[:n])
		p.mu.Unlock()
		if p.sink != nil && n > 0 {
			p.sink.give(buf[:n])
		}
		if err != nil {
			break
		}
	}
	if p.sink != nil {
		p.sink.close()
	}
}

// settle waits until everything is read, as nobody writes any more.
func (p *pump) settle() { awaitClosed(context.Background(), p.done, sinkTimeout) }

// lastBytes returns the tail.
func (p *pump) lastBytes() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.tail.buf)
}

// end closes the pipe and gives the writer a moment for the rest. It reports whether that was enough.
func (p *pump) end() (written bool) {
	p.settle()
	p.file.Close()
	return p.sink == nil || awaitClosed(context.Background(), p.sink.done, sinkTimeout)
}

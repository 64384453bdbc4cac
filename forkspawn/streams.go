package forkspawn

import (
	"os"
	"time"
)

// streams are the captured streams of one child.
type streams struct {
	stdout, stderr *pump
	childEnds      []*os.File // closed when the child has them
}

// passed returns the file that a stream gives to the child, nil for the null device.
func (s Stream) passed(own *os.File) *os.File {
	switch {
	case s.mode != streamFile:
		return nil
	case s.file == nil:
		return own
	}
	return s.file
}

// openStreams fills in attr's Stdout and Stderr and opens what is captured. It is not read before there is a process, as the start of
// goroutines takes its time.
func openStreams(cfg *Config, attr *ProcessAttr) (streams, error) {
	var st streams
	out, err := cfg.Stdout, cfg.Stderr
	if out.mode == streamDefault {
		out = Inherit()
	}
	if err.mode == streamDefault {
		err = Capture(os.Stderr)
	}
	for _, o := range []struct {
		Stream
		own  *os.File
		file **os.File
		pump **pump
	}{{out, os.Stdout, &attr.Stdout, &st.stdout}, {err, os.Stderr, &attr.Stderr, &st.stderr}} {
		if o.mode != streamCapture {
			*o.file = o.passed(o.own)
			continue
		}
		p, childEnd, err := newPump(o.w)
		if err != nil {
			st.started()
			st.end()
			return streams{}, explainScarcity(err)
		}
		*o.pump, *o.file = p, childEnd
		st.childEnds = append(st.childEnds, childEnd)
	}
	return st, nil
}

// started begins to read, and closes the child's ends in this process. It comes before end.
func (st *streams) started() {
	st.run()
	for _, f := range st.childEnds {
		f.Close()
	}
	st.childEnds = nil
}

// run begins to read what is captured.
func (st *streams) run() {
	for _, p := range []*pump{st.stdout, st.stderr} {
		if p != nil {
			go p.run()
		}
	}
}

// settle reads what a child that has ended left in its pipes.
func (st *streams) settle() {
	for _, p := range []*pump{st.stdout, st.stderr} {
		if p != nil {
			p.settle()
		}
	}
}

// sinkTimeout bounds how long the end of a child waits for a slow writer.
const sinkTimeout = time.Second

// end closes the captured streams. It reports whether all that the child wrote was passed on.
func (st *streams) end() (written bool) {
	written = true
	for _, p := range []*pump{st.stdout, st.stderr} {
		if p != nil && !p.end() {
			written = false
		}
	}
	return written
}

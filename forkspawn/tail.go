package forkspawn

import (
	"bytes"
	"slices"
	"strings"
)

// tailSize is how much of a captured stream is kept, in bytes.
const tailSize = 4 << 10

// tail keeps the last tailSize bytes of what is written to it, and the words by which a Go program says
// why it crashes: a trace follows them that is often longer than the tail.
type tail struct {
	buf   []byte
	total int64 // bytes written so far

	line   []byte // the start of the line that is being written, if it can be such words
	lineAt int64  // where in the stream it begins
	skip   bool   // it cannot

	before  []byte // lines of the runtime's that a crash may follow
	begin   int64  // where in the stream they begin, and end
	end     int64
	crash   []byte // the last crash's words: those lines, and its own
	crashAt int64  // where in the stream they begin
}

func (t *tail) write(p []byte) {
	t.listen(p)
	t.total += int64(len(p))
	if len(p) >= tailSize {
		t.buf = append(t.buf[:0], p[len(p)-tailSize:]...)
		return
	}
	if over := len(t.buf) + len(p) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.buf = append(t.buf, p...)
}

// maxLine and maxWords bound, in bytes, one line of a crash's words and all of them. maxTrace bounds what
// may follow them: with more, the program has gone on.
const (
	maxLine  = 512
	maxWords = 2 * maxLine
	maxTrace = 64 << 10
)

// crashWords are what lines begin with, before a colon, that say why a Go program crashes; runtimeWords,
// lines before them.
var (
	runtimeWords = []string{"runtime", "runtime/cgo"}
	crashWords   = []string{"fatal error", "panic", abortWord}
)

// abortWord says nothing by itself; what C code says just before it aborts does.
const abortWord = "SIGABRT"

// isCrash tells whether a line that begins so, the first or one after the runtime's, is a crash's.
func isCrash(word string, first bool) bool {
	return slices.Contains(crashWords, word) && !(first && word == abortWord)
}

// listen finds the words of a crash. What the runtime prints arrives in small pieces.
func (t *tail) listen(p []byte) {
	for at := t.total; len(p) > 0; {
		piece := p
		end := bytes.IndexByte(p, '\n')
		if end >= 0 {
			piece = p[:end+1]
		}
		p = p[len(piece):]
		at += int64(len(piece))
		if !t.skip {
			t.line = append(t.line, piece[:min(len(piece), maxLine-len(t.line))]...)
			t.skip = !canBeWords(t.line)
		}
		if end < 0 {
			return
		}
		if !t.skip {
			t.keepWords(at)
		}
		t.line, t.lineAt, t.skip = t.line[:0], at, false
	}
}

// keepWords takes a whole line that ends at a place in the stream.
func (t *tail) keepWords(end int64) {
	if t.lineAt != t.end || len(t.before)+len(t.line) > maxWords {
		t.before, t.begin = t.before[:0], t.lineAt
	}
	first := len(t.before) == 0
	t.before = append(bytes.TrimSuffix(append(t.before, t.line...), []byte("\n")), '\n') // a long line was cut
	t.end = end
	word, _, _ := strings.Cut(string(t.line), ": ")
	if isCrash(word, first) {
		t.crash, t.crashAt = append(t.crash[:0], t.before...), t.begin
		t.end = 0 // what follows is another matter
	}
}

// canBeWords tells whether a line that begins so can be such words.
func canBeWords(line []byte) bool {
	begins := func(word string) bool {
		n := min(len(line), len(word))
		return string(line[:n]) == word[:n] && (len(line) == n || line[n] == ':')
	}
	return slices.ContainsFunc(runtimeWords, begins) || slices.ContainsFunc(crashWords, begins)
}

// String returns the last bytes, and before them the words of a crash that they do not reach back to.
func (t *tail) String() string {
	const gap = "[...]\n"
	since := t.total - t.crashAt
	if len(t.crash) == 0 || since <= int64(len(t.buf)) || since > maxTrace {
		return string(t.buf)
	}
	return string(t.crash) + gap + string(t.buf[len(t.crash)+len(gap):])
}

// lastLine returns the last line with something in it. Of a crash of Go that is a line of the trace: the
// lines that say why tell more.
func lastLine(s string) string {
	last := ""
	var before, crash []string // lines of the runtime's, and a crash with those before it
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		last = line
		switch word, _, _ := strings.Cut(line, ": "); {
		case slices.Contains(runtimeWords, word):
			before = append(before, line)
			continue
		case isCrash(word, before == nil):
			crash = append(before, line)
		}
		before = nil
	}
	if crash != nil {
		return strings.Join(crash, "; ")
	}
	return last
}

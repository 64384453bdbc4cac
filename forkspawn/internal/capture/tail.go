package capture

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// tailSize is how much of a captured stream is kept, in bytes.
const tailSize = 4 << 10

// tail keeps the last tailSize bytes written to it. It also keeps the lines in
// which a Go program reports its crash, because the trace after them is often
// longer than the tail.
type tail struct {
	buf   []byte
	total int64 // bytes written so far

	line   []byte // the beginning of the current line, if it can be of a crash
	lineAt int64  // its offset in the stream
	skip   bool   // the current line cannot be of a crash

	before  []byte // lines of the runtime; a crash may follow
	begin   int64  // the offset of their beginning
	end     int64  // and of their end
	crash   []byte // the lines of the last crash, with those before it
	crashAt int64  // their offset in the stream
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

// maxLine and maxWords bound one line of a crash and all its lines, in bytes.
// maxTrace bounds the trace. If more bytes follow, the program has recovered.
const (
	maxLine  = 512
	maxWords = 2 * maxLine
	maxTrace = 64 << 10
)

// A line of a crash begins with one of crashWords and a colon. A line before it
// can begin with one of runtimeWords and a colon.
var (
	runtimeWords = []string{"runtime", "runtime/cgo"}
	crashWords   = []string{"fatal error", "panic", abortWord}
)

// abortWord counts only after a line with one of runtimeWords, because alone it gives
// no reason.
const abortWord = "SIGABRT"

// isCrash reports whether a line beginning with word is of a crash. first is false
// after a line of the runtime.
func isCrash(word string, first bool) bool {
	return slices.Contains(crashWords, word) && !(first && word == abortWord)
}

// listen finds the lines of a crash. They arrive in small pieces.
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

// keepWords adds the current line, complete at the offset end.
func (t *tail) keepWords(end int64) {
	if t.lineAt != t.end || len(t.before)+len(t.line) > maxWords {
		t.before, t.begin = t.before[:0], t.lineAt
	}
	first := len(t.before) == 0
	// a long line has lost its end
	t.before = append(bytes.TrimSuffix(append(t.before, t.line...), []byte("\n")), '\n')
	t.end = end
	word, _, _ := strings.Cut(string(t.line), ": ")
	if isCrash(word, first) {
		t.crash, t.crashAt = append(t.crash[:0], t.before...), t.begin
		t.end = 0 // the next line is not one of these
	}
}

// canBeWords reports whether a line with this beginning can be of a crash.
func canBeWords(line []byte) bool {
	begins := func(word string) bool {
		n := min(len(line), len(word))
		return string(line[:n]) == word[:n] && (len(line) == n || line[n] == ':')
	}
	return slices.ContainsFunc(runtimeWords, begins) || slices.ContainsFunc(crashWords, begins)
}

// String returns the last bytes. If a crash was before them, its lines come first.
func (t *tail) String() string {
	const gap = "[...]\n"
	since := t.total - t.crashAt
	if len(t.crash) == 0 || since <= int64(len(t.buf)) || since > maxTrace {
		return string(t.buf)
	}
	return string(t.crash) + gap + string(t.buf[len(t.crash)+len(gap):])
}

// LastLine returns the last line that is not empty. For a crash of a Go program it
// returns the reason of the crash instead.
func LastLine(s string) string {
	last := ""
	var before, crash []string // lines of the runtime, and those of a crash
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

// Quote returns the last line of a captured stderr for the text of an error, or "".
func Quote(stderr string) string {
	line := LastLine(stderr)
	if line == "" {
		return ""
	}
	return "; stderr: " + quoted(line)
}

// maxQuoted bounds how much of a line Quote returns, in bytes before quoting.
const maxQuoted = 512

// quoted returns a line in quotes, without its middle if it is too long.
func quoted(line string) string {
	if over := len(line) - maxQuoted; over > 0 {
		half := maxQuoted / 2
		return fmt.Sprintf("%q (%d bytes) %q", line[:half], over, line[len(line)-half:])
	}
	return strconv.Quote(line)
}

package capture

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// written returns a tail to which s was written in pieces, as what the Go runtime prints arrives.
func written(s string, piece int) *tail {
	t := new(tail)
	for len(s) > 0 {
		n := min(piece, len(s))
		t.write([]byte(s[:n]))
		s = s[n:]
	}
	return t
}

func TestTail_KeepsTheWordsOfACrash(t *testing.T) {
	trace := "\ngoroutine 1 [running]:\n" +
		strings.Repeat("runtime: g 0: unknown pc\nmain.main()\n\t/x.go:3 +0x1d\n",
			400) + "exit status 2\n"
	for _, c := range []struct{ words, line string }{
		{"panic: boom\n", "panic: boom"},
		{"fatal error: all goroutines are asleep - deadlock!\n",
			"fatal error: all goroutines are asleep - deadlock!"},
		{"runtime: failed to create new OS thread (have 2 already; errno=11)\nruntime: may need to increase max user processes (ulimit -u)\nfatal error: newosproc\n",
			"runtime: failed to create new OS thread (have 2 already; errno=11); runtime: may need to increase max user processes (ulimit -u); fatal error: newosproc"},
		{"runtime/cgo: pthread_create failed: Resource temporarily unavailable\nSIGABRT: abort\n",
			"runtime/cgo: pthread_create failed: Resource temporarily unavailable; SIGABRT: abort"},
	} {
		for _, piece := range []int{1, 7, 1000, 1 << 20} {
			got := written("hello\n"+c.words+trace, piece).String()
			assert.Equal(t, tailSize, len(got))
			assert.True(t, strings.HasPrefix(got, c.words+"[...]\n"), got)
			assert.True(t, strings.HasSuffix(got, "exit status 2\n"))
			assert.Equal(t, c.line, LastLine(got))
		}
		assert.Equal(t, "hello\n"+c.words, written("hello\n"+c.words, 5).String(),
			"where all fits, it is as it was written")
	}

	long := written("panic: "+strings.Repeat("x", 10_000)+"\n"+trace, 100).String()
	assert.True(t, strings.HasPrefix(long, "panic: x"))
	assert.Equal(t, tailSize, len(long))
	gone := written("panic: recovered\n"+strings.Repeat("work goes on\n", 10_000), 100).String()
	assert.NotContains(t, gone, "panic", "what came long after is no trace")
	for _, harmless := range []string{"SIGABRT: abort\n", "runtime: a word\n",
		"panicked: no\n", "a panic: no\n"} {
		assert.NotContains(t, written(harmless+trace, 100).String(), harmless)
	}
}

func TestTail_KeepsTheLastBytes(t *testing.T) {
	var tl tail
	var all strings.Builder
	for i := range 3000 {
		chunk := strings.Repeat(string(rune('a'+i%26)), i%7)
		if i == 1000 {
			chunk = strings.Repeat("0123456789", 900) // more than the whole tail at once
		}
		tl.write([]byte(chunk))
		all.WriteString(chunk)
		s := all.String()
		require.Equal(t, s[max(0, len(s)-tailSize):], string(tl.buf))
	}
}

func TestTail_LastLinePrefersThePanic(t *testing.T) {
	assert.Equal(t, "", LastLine(" \n\n"))
	assert.Equal(t, "two", LastLine("one\n two \n\n"))
	assert.Equal(t, "panic: boom",
		LastLine("start\npanic: boom\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:3 +0x1d\nexit status 2\n"))
}

func TestTail_ErrorsQuoteNoMoreThanIsOfUse(t *testing.T) {
	assert.Equal(t, `"short"`, quoted("short"))
	text := quoted(strings.Repeat("\x00", 4096) + "the end")
	assert.Less(t, len(text), 3000, "four bytes for each, quoted")
	assert.Contains(t, text, `the end"`)
	assert.Contains(t, text, "(3591 bytes)")
}

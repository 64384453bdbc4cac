//go:build unix

package capture

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// gate is a writer. Its writes wait while it is closed.
type gate struct {
	mu     sync.Mutex
	locked sync.Mutex // held while the gate is closed
	b      bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	g.locked.Lock()
	defer g.locked.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(p)
}

func (g *gate) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.String()
}

func startSink(t *testing.T, w *gate) *sink {
	s := newSink(w, false)
	go s.run()
	t.Cleanup(func() {
		s.close()
		<-s.done
	})
	return s
}

func TestSink_LinesStayWhole(t *testing.T) {
	var w gate
	var writers sync.WaitGroup
	for i := range 4 {
		s := newSink(&w, false)
		go s.run()
		writers.Go(func() {
			text := strings.Repeat(fmt.Sprintf("line of sink %d %s\n", i, strings.Repeat("x", 70)),
				3000)
			for len(text) > 0 {
				n := min(len(text), 4093) // as a pipe gives it
				s.give([]byte(text[:n]))
				text = text[n:]
			}
			s.close()
			<-s.done
		})
	}
	writers.Wait()
	lines := strings.Split(strings.TrimSuffix(w.text(), "\n"), "\n")
	for _, line := range lines {
		if len(line) != 85 || !strings.HasPrefix(line, "line of sink ") ||
			!strings.HasSuffix(line, " "+strings.Repeat("x", 70)) {
			require.Fail(t, "not a whole line: "+line)
		}
	}
	assert.Len(t, lines, 4*3000)
}

func TestSink_GapsBeginAndEndWithALine(t *testing.T) {
	var w gate
	w.locked.Lock()
	s := startSink(t, &w)
	given := 0
	feed := func() {
		for i := range 40_000 {
			line := fmt.Appendf(nil, "line %06d %s\n", i, strings.Repeat("y", 50))
			cut := i % len(line)
			s.give(line[:cut])
			s.give(line[cut:])
			given += len(line)
		}
	}
	feed() // 2.5 MB; one MiB fits, and another one is with the writer
	w.locked.Unlock()
	s.flush()
	w.locked.Lock()
	feed()
	s.close()
	w.locked.Unlock()
	<-s.done
	text, dropped := w.text(), 0
	note := regexp.MustCompile(`\n\[spawnwire: (\d+) bytes dropped: the writer is too slow\]\n`)
	for _, m := range note.FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		dropped += n
	}
	assert.NotZero(t, dropped)
	rest := note.ReplaceAllString(text, "")
	assert.Equal(t, given, len(rest)+dropped)
	for line := range strings.Lines(rest) {
		if len(line) != 63 || !strings.HasPrefix(line, "line ") ||
			!strings.HasSuffix(line, " "+strings.Repeat("y", 50)+"\n") {
			require.Fail(t, "not a whole line: "+line)
		}
	}
}

// A prompt has no end of line.
func TestSink_StartOfALineIsWrittenAfterAWhile(t *testing.T) {
	var w gate
	s := startSink(t, &w)
	s.give([]byte("a line\npassword: "))
	testkit.Eventually(t, "the prompt", func() bool { return w.text() == "a line\npassword: " })
}

// A blocked writer does not delay every report of a death.
func TestSink_FlushDoesNotWaitForABlockedWriterTwice(t *testing.T) {
	var w gate
	w.locked.Lock()
	s := startSink(t, &w)
	s.give([]byte("a line\n"))
	s.flush()
	began := time.Now()
	for range 1000 {
		s.flush()
	}
	assert.Less(t, time.Since(began), testkit.Patience) // a thousand times WriterTimeout is more
	w.locked.Unlock()
}

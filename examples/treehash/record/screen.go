package main

import "strings"

// screen is a terminal that knows the ends of lines and how to erase one.
type screen struct {
	columns int
	lines   [][]rune // the last one has the cursor
	column  int
}

// write writes text, with ESC [ K for the rest of the line. It ignores other
// control characters.
func (s *screen) write(text string) {
	if s.lines == nil {
		s.lines = [][]rune{nil}
	}
	for text != "" {
		if rest, ok := strings.CutPrefix(text, "\x1b[K"); ok {
			last := len(s.lines) - 1
			s.lines[last] = s.lines[last][:s.column]
			text = rest
			continue
		}
		for _, c := range text {
			s.put(c)
			text = text[len(string(c)):]
			break
		}
	}
}

func (s *screen) put(c rune) {
	last := len(s.lines) - 1
	switch {
	case c == '\n':
		s.lines, s.column = append(s.lines, nil), 0
	case c == '\r':
		s.column = 0
	case c < ' ':
	case s.column == s.columns:
		s.lines, s.column = append(s.lines, []rune{c}), 1
	case s.column < len(s.lines[last]):
		s.lines[last][s.column] = c
		s.column++
	default:
		s.lines[last] = append(s.lines[last], c)
		s.column++
	}
}

// text returns the lines.
func (s *screen) text() []string {
	lines := make([]string, len(s.lines))
	for i, line := range s.lines {
		lines[i] = string(line)
	}
	return lines
}

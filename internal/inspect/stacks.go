package inspect

import (
	"cmp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Stack is a group of goroutines with the same state and stack.
type Stack struct {
	State      string `json:"state"`
	Text       string `json:"text"` // two lines for each call: the function and the place
	Goroutines int    `json:"goroutines"`
	Processes  int    `json:"processes"`         // that have such goroutines
	Minutes    int    `json:"minutes,omitempty"` // that the longest one has waited
}

const (
	maxDump  = 8 << 20 // bytes of all stacks of a process
	maxStack = 1000    // groups in an answer
)

// ownStacks returns the groups of this process. The runtime stops all goroutines while
// it writes their stacks.
func ownStacks() []Stack {
	for size := 64 << 10; ; size *= 4 {
		dump := make([]byte, min(size, maxDump))
		n := runtime.Stack(dump, true)
		if n < len(dump) || len(dump) == maxDump {
			return group(string(dump[:n]))
		}
	}
}

// group groups the goroutines in the text of runtime.Stack. Arguments, offsets and the
// numbers of goroutines do not count.
func group(dump string) []Stack {
	index := make(map[string]int)
	var list []Stack
	for one := range strings.SplitSeq(strings.TrimSpace(dump), "\n\n") {
		lines := strings.Split(one, "\n")
		s := Stack{Goroutines: 1, Processes: 1}
		var ok bool
		if s.State, s.Minutes, ok = state(lines[0]); !ok {
			continue
		}
		for i := range lines {
			lines[i] = plain(lines[i])
		}
		s.Text = strings.Join(lines[1:], "\n")
		key := s.State + "\n" + s.Text
		if i, ok := index[key]; ok {
			list[i].Goroutines++
			list[i].Minutes = max(list[i].Minutes, s.Minutes)
			continue
		}
		index[key] = len(list)
		s.Text = strings.ToValidUTF8(s.Text, "\uFFFD")
		list = append(list, s)
	}
	return list
}

// state returns the state in the first line of a goroutine, such as
// "goroutine 7 [chan receive, 3 minutes, locked to thread]:".
func state(line string) (state string, minutes int, ok bool) {
	_, line, goroutine := strings.Cut(line, "goroutine ")
	_, line, bracket := strings.Cut(line, "[")
	line, end := strings.CutSuffix(line, "]:")
	state, more, _ := strings.Cut(line, ", ")
	first, _, _ := strings.Cut(more, " minutes")
	minutes, _ = strconv.Atoi(first)
	return state, minutes, goroutine && bracket && end
}

// plain returns a line of a stack without what differs between equal goroutines.
func plain(line string) string {
	if strings.HasPrefix(line, "\t") {
		line, _, _ = strings.Cut(line, " +0x")
		return line
	}
	line, _, _ = strings.Cut(line, " in goroutine ")
	if i := strings.LastIndexByte(line, '('); i >= 0 && strings.HasSuffix(line, ")") &&
		!strings.HasPrefix(line, "created by ") {
		return line[:i] + "(...)"
	}
	return line
}

// merge joins equal groups. Those with most goroutines come first, and those after the
// first maxStack become one.
func merge(all []Stack) []Stack {
	index := make(map[string]int)
	var list []Stack
	for _, s := range all {
		key := s.State + "\n" + s.Text
		i, ok := index[key]
		if !ok {
			index[key] = len(list)
			list = append(list, s)
			continue
		}
		list[i].Goroutines += s.Goroutines
		list[i].Processes += s.Processes
		list[i].Minutes = max(list[i].Minutes, s.Minutes)
	}
	slices.SortStableFunc(list, func(a, b Stack) int {
		return cmp.Or(cmp.Compare(b.Goroutines, a.Goroutines), cmp.Compare(a.Text, b.Text),
			cmp.Compare(a.State, b.State))
	})
	if len(list) <= maxStack {
		return list
	}
	rest := Stack{State: "other stacks"}
	for _, s := range list[maxStack-1:] {
		rest.Goroutines += s.Goroutines
		rest.Processes = max(rest.Processes, s.Processes)
	}
	return append(list[:maxStack-1], rest)
}

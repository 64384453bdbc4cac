package inspect

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const dump = `goroutine 7 [chan receive, 3 minutes]:
main.worker(0xc000012345, {0x1, 0x2})
	/src/main.go:10 +0x1d
created by main.main in goroutine 1
	/src/main.go:5 +0x20

goroutine 8 gp=0xc00 m=nil [chan receive, 5 minutes, locked to thread]:
main.worker(0xc000099999, {...})
	/src/main.go:10 +0x2f
created by main.main in goroutine 12
	/src/main.go:5 +0x20

goroutine 9 [select]:
main.worker(...)
	/src/main.go:10 +0x2f
created by main.main in goroutine 12
	/src/main.go:5 +0x20

goroutine 10 [running]:
main.(*T).f(0x0)
	/src/main.go:20
`

func TestStacks_EqualOnesAreOneGroup(t *testing.T) {
	groups := merge(group(dump))
	require.Len(t, groups, 3)
	assert.Equal(t, Stack{State: "chan receive", Goroutines: 2, Processes: 1, Minutes: 5,
		Text: "main.worker(...)\n\t/src/main.go:10\ncreated by main.main\n\t/src/main.go:5"}, groups[0])
	assert.Equal(t, "main.(*T).f(...)\n\t/src/main.go:20", groups[1].Text)
	assert.Equal(t, "select", groups[2].State)
}

func TestStacks_OfSeveralProcessesAreAddedUp(t *testing.T) {
	groups := merge(append(group(dump), group(dump)...))
	require.Len(t, groups, 3)
	assert.Equal(t, 4, groups[0].Goroutines)
	assert.Equal(t, 2, groups[0].Processes)
}

func TestStacks_AreBounded(t *testing.T) {
	var all []Stack
	for i := range 3 * maxStack {
		one := Stack{State: "select", Text: strconv.Itoa(i), Goroutines: 1, Processes: 1}
		all = append(all, one)
	}
	groups := merge(all)
	require.Len(t, groups, maxStack)
	assert.Equal(t, 2*maxStack+1, groups[maxStack-1].Goroutines)
}

func TestStacks_OfThisProcess(t *testing.T) {
	var text strings.Builder
	for _, s := range ownStacks() {
		text.WriteString(s.Text)
	}
	assert.Contains(t, text.String(), "inspect.TestStacks_OfThisProcess(...)")
}

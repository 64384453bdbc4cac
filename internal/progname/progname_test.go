package progname

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestName_IsAlwaysUsable(t *testing.T) {
	old := os.Args
	defer func() { os.Args = old }()
	executable := Name()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"/usr/bin/tool", "x"}, "tool"},
		{nil, executable},
		{[]string{""}, executable},
		{[]string{"a\nb\x1b[0m"}, "ab[0m"},
		{[]string{"caf\xe9"}, "caf?"},
		{[]string{"\x01"}, "program"},
		{[]string{strings.Repeat("ä", 200)}, strings.Repeat("ä", 128)},
	} {
		os.Args = c.args
		assert.Equal(t, c.want, Name(), "%q", c.args)
	}
}

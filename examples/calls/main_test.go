package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCalls_EachKindAnswers(t *testing.T) {
	program := filepath.Join(t.TempDir(), "calls")
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(program).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, `square: 144
count: 1
count: 2
count: 3
sum: 6
double: 42
session: guess a number from 1 to 10
session: 5 is too small
session: 7 is right
`, string(out))
}

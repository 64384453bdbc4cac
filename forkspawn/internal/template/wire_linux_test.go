//go:build amd64 || arm64

package template

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWire_RoundTrip(t *testing.T) {
	env := []string{"A=b\xff", "", "C"}
	request := request{ownGroup: true, deathSignal: syscall.SIGKILL, connected: true,
		ticket: []byte("1 id secret"), env: env}
	body := request.encode()[4:]
	got, gotEnv, err := decodeRequest(body)
	require.NoError(t, err)
	for _, entry := range gotEnv.all {
		got.env = append(got.env, string(entry))
	}
	assert.Equal(t, request, got)
	assert.Zero(t, testing.AllocsPerRun(10, func() { decodeRequest(body) }))
	for n := range body {
		_, _, err := decodeRequest(body[:n:n])
		assert.ErrorIs(t, err, errMessage, "%d bytes", n)
	}

	news := reply{kind: replyNotForked, pid: 7, errno: syscall.EAGAIN, reason: "clone",
		resource: "RLIMIT_NPROC is 7", remedy: "fewer processes"}
	assert.Equal(t, byte(7), news.encode()[pidOffset])
	body = news.encode()[4:]
	told, err := decodeReply(body)
	require.NoError(t, err)
	assert.Equal(t, news, told)
	for n := range body {
		_, err := decodeReply(body[:n:n])
		assert.ErrorIs(t, err, errMessage, "%d bytes", n)
	}
}

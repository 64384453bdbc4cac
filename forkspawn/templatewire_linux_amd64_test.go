package forkspawn

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMessagesBetweenTemplateAndSpawner(t *testing.T) {
	request := forkRequest{ownGroup: true, deathSignal: syscall.SIGKILL, ticket: []byte("1 id secret"), env: []string{"A=b\xff", "", "C"}}
	body := request.encode()[4:]
	got, err := decodeForkRequest(body)
	require.NoError(t, err)
	assert.Equal(t, request, got)
	for n := range body {
		_, err := decodeForkRequest(body[:n:n])
		assert.ErrorIs(t, err, errTemplateMessage, "%d bytes", n)
	}

	news := templateNews{kind: newsNotForked, pid: 7, errno: syscall.EAGAIN, reason: "clone", resource: "RLIMIT_NPROC is 7", remedy: "fewer processes"}
	body = news.encode()[4:]
	told, err := decodeTemplateNews(body)
	require.NoError(t, err)
	assert.Equal(t, news, told)
	for n := range body {
		_, err := decodeTemplateNews(body[:n:n])
		assert.ErrorIs(t, err, errTemplateMessage, "%d bytes", n)
	}
}

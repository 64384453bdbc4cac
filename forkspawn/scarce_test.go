package forkspawn

import (
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestScarcityIsExplained(t *testing.T) {
	for _, c := range []struct {
		errno   syscall.Errno
		explain func(error) error
		words   string
	}{
		{syscall.EMFILE, explainScarcity, "RLIMIT_NOFILE"},
		{syscall.ENFILE, explainScarcity, "fs.file-max or fs.pipe-user-pages-hard"},
		{syscall.ENOMEM, explainScarcity, "memory"},
		{syscall.ENOSPC, explainScarcity, "space or inodes"},
		{syscall.EDQUOT, explainScarcity, "quota"},
		{syscall.EAGAIN, explainStart, "pids.max"},
		{syscall.ENOMEM, explainStart, "pid namespace"},
		{syscall.EMFILE, explainStart, "RLIMIT_NOFILE"},
		{syscall.EMFILE, noPlace, "RLIMIT_NOFILE"},
		{syscall.EROFS, noPlace, "TMPDIR"},
		{syscall.ENOENT, noNullDevice, "null device"},
		{syscall.EMFILE, noNullDevice, "RLIMIT_NOFILE"},
	} {
		err := c.explain(fmt.Errorf("outer: %w", &fs.PathError{Op: "open", Path: "/the/path", Err: c.errno}))
		var r *ResourceError
		require.ErrorAs(t, err, &r)
		assert.ErrorIs(t, err, c.errno)
		assert.ErrorContains(t, err, "/the/path")
		assert.ErrorContains(t, err, c.words)
		assert.Same(t, r, explainScarcity(err), "once is enough")
	}
	assert.NoError(t, explainScarcity(nil))
	for _, errno := range []syscall.Errno{syscall.ENOENT, syscall.EAGAIN, syscall.ECONNREFUSED} {
		assert.Equal(t, error(errno), explainScarcity(errno), "another matter")
	}
}

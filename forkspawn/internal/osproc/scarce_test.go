package osproc

import (
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestScarcity_IsExplained(t *testing.T) {
	for _, c := range []struct {
		errno   syscall.Errno
		explain func(error) error
		words   string
	}{
		{syscall.EMFILE, ExplainScarcity, "RLIMIT_NOFILE"},
		{syscall.ENFILE, ExplainScarcity, "fs.file-max or fs.pipe-user-pages-hard"},
		{syscall.ENOMEM, ExplainScarcity, "memory"},
		{syscall.ENOSPC, ExplainScarcity, "space or inodes"},
		{syscall.EDQUOT, ExplainScarcity, "quota"},
		{syscall.EAGAIN, ExplainStart, "pids.max"},
		{syscall.ENOMEM, ExplainStart, "pid namespace"},
		{syscall.EMFILE, ExplainStart, "RLIMIT_NOFILE"},
		{syscall.EMFILE, NoPlace, "RLIMIT_NOFILE"},
		{syscall.EROFS, NoPlace, "TMPDIR"},
		{syscall.ENOENT, NoNullDevice, "null device"},
		{syscall.EMFILE, NoNullDevice, "RLIMIT_NOFILE"},
	} {
		err := c.explain(fmt.Errorf("outer: %w",
			&fs.PathError{Op: "open", Path: "/the/path", Err: c.errno}))
		var r *ResourceError
		require.ErrorAs(t, err, &r)
		assert.ErrorIs(t, err, c.errno)
		assert.ErrorContains(t, err, "/the/path")
		assert.ErrorContains(t, err, c.words)
		assert.Same(t, r, ExplainScarcity(err), "once is enough")
	}
	assert.NoError(t, ExplainScarcity(nil))
	for _, errno := range []syscall.Errno{syscall.ENOENT, syscall.EAGAIN, syscall.ECONNREFUSED} {
		assert.Equal(t, error(errno), ExplainScarcity(errno), "another matter")
	}
}

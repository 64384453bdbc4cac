//go:build !portable

package forkspawn_test

import "runtime"

// portable reports whether children are started with syscall.ForkExec.
const portable = runtime.GOOS != "linux" || (runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64")

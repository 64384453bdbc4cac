//go:build unix && !linux

package transport

var readv func(fd int, bufs [][]byte) (int, error)

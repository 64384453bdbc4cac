//go:build unix

package tcp

const canReusePort = true

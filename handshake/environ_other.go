//go:build !linux

package handshake

func eraseEnviron(string) {}

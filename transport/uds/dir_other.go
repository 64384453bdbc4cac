//go:build !linux

package uds

const sharedMemory = ""

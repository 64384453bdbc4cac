//go:build !linux

package forkspawn

const limitDescriptors, limitProcesses = 0, 0

// limitNow: limits are read on Linux only.
func limitNow(int) string { return "" }

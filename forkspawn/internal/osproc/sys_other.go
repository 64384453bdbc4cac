//go:build !linux

package osproc

const limitDescriptors, limitProcesses = 0, 0

// limitNow returns "", because limits are read on Linux only.
func limitNow(int) string { return "" }

// NameProcess does nothing here.
func NameProcess() {}

// Traced returns false, because this platform does not report debuggers.
func Traced(int) bool { return false }

// LimitNumber knows every name, because Start refuses limits here.
func LimitNumber(string) (int, bool) { return 0, true }

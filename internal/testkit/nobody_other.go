//go:build !linux

package testkit

import "testing"

// AsNobody skips the test, because only Linux has setfsuid(2).
func AsNobody(t testing.TB, _ func()) {
	t.Helper()
	t.Skip("Linux only")
}

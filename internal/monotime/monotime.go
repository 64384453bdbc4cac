// Package monotime reads the clock of a host. All processes of the host share it, so
// a parent and its child can compare the moments of a start.
package monotime

// Now returns nanoseconds of CLOCK_MONOTONIC (clock_gettime(2)). It returns 0 on
// systems other than Linux. Only differences have a meaning, and only between
// processes of one host and one time namespace.
func Now() int64 { return now() }

// Init is the time when this package was initialised. That is early in the start
// of a program, because the package imports almost nothing.
var Init = Now()

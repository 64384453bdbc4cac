// Package monotime reads the clock that all processes of one host share, so that a parent and
// its child can put the moments of a start on one line.
package monotime

// Now returns nanoseconds of CLOCK_MONOTONIC (clock_gettime(2)), or 0 where this package knows no clock
// that processes share. Differences between processes of one host (and one time namespace) mean
// something; the value itself does not.
func Now() int64 { return now() }

// Init is when this package was initialised. It imports next to nothing, so that is early among a
// program's package inits.
var Init = Now()

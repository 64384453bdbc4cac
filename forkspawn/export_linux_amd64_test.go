package forkspawn

import "time"

// SetCollectAfter is for a warm-up: it sets when its template collects garbage.
func SetCollectAfter(d time.Duration) { collectAfter = d }

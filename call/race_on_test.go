//go:build race

package call_test

import "time"

// testTime is how long a test of races runs.
const testTime = 5 * time.Second

const raceDetector = true

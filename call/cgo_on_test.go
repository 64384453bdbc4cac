//go:build cgo

package call_test

const cgoEnabled = true

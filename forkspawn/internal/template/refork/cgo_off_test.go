//go:build !cgo

package refork_test

const cgoEnabled = false

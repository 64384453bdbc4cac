//go:build unix && cgo

package siblings

const cgoEnabled = true

//go:build !cgo

package forkspawn_test

const cgoEnabled = false

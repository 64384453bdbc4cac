//go:build cgo

package forkspawn_test

const cgoEnabled = true

//go:build portable

package forkspawn_test

const portable = true

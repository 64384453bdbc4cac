//go:build !linux

package forkspawn

func nameProcess() {}

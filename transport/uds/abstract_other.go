//go:build !linux

package uds

const haveAbstract = false

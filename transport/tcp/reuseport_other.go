//go:build !unix

package tcp

// On Windows the library for it sets SO_REUSEADDR, which takes a port away from who has it instead of
// sharing it. On others it does nothing.
const canReusePort = false

//go:build !linux

package inspect

// Usage does nothing: there is no /proc.
func (p *Process) Usage() (stopped bool) { return false }

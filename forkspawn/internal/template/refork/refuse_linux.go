//go:build amd64 || arm64

package refork

import "runtime/trace"

// refuseNow makes the check before each fork, because its result can change. It needs
// Go code.
func refuseNow() error {
	if trace.IsEnabled() {
		return &Refused{Reason: "an execution trace is running",
			Remedy: "stop it before (trace.Stop)"}
	}
	return nil
}

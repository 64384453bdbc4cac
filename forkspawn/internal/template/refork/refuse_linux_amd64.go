package refork

import "runtime/trace"

// refuseNow makes the check that needs Go code and can change from fork to
// fork.
func refuseNow() error {
	if trace.IsEnabled() {
		return &Refused{Reason: "an execution trace is running",
			Remedy: "stop it before (trace.Stop)"}
	}
	return nil
}

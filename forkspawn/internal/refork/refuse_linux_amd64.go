package refork

import "runtime/trace"

// refuseNow tells what is only known to Go code, and may change from fork to fork.
func refuseNow() error {
	if trace.IsEnabled() {
		return &Refused{Reason: "an execution trace is running", Remedy: "stop it before (trace.Stop)"}
	}
	return nil
}

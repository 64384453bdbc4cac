package template

import (
	"fmt"
	"go/version"
	"runtime"
	"slices"
	"strings"
)

// Soaked has the minor versions of Go with a passed soak, for each processor: 20,000
// forks with no failure. It is this command, with the latest release of the minor
// version:
//
//	CGO_ENABLED=0 go run ./forkspawn/internal/reforktest/forksoak
//
// Tests add to it.
var Soaked = map[string][]string{"amd64": {"go1.26"}}

// GoVersion is that of this program. Tests set it.
var GoVersion = runtime.Version()

// CheckGoVersion returns a *Refusal if this program's Go version has not passed the soak.
func CheckGoVersion() error {
	release, _, _ := strings.Cut(strings.TrimPrefix(GoVersion, "devel "), " ")
	soaked := Soaked[runtime.GOARCH]
	switch {
	case slices.Contains(soaked, version.Lang(release)):
		return nil
	case len(soaked) == 0:
		return &Refusal{
			Reason: "forks have not been tested at length on " + runtime.GOARCH,
			Remedy: "set Config.ForkserverAnyGo",
		}
	}
	return &Refusal{
		Reason: fmt.Sprintf("forks have not been tested at length with %s, but with %s",
			GoVersion, strings.Join(soaked, ", ")),
		Remedy: "build the program with one of these, or set Config.ForkserverAnyGo",
	}
}

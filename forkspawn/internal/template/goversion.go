package template

import (
	"fmt"
	"go/version"
	"runtime"
	"slices"
	"strings"
)

// soaked has the minor versions of Go with a passed soak: 20,000 forks with no failure.
// It is this command, with the latest release of the minor version:
//
//	CGO_ENABLED=0 go run ./forkspawn/internal/reforktest/forksoak
var soaked = []string{"go1.26"}

// GoVersion is that of this program. Tests set it.
var GoVersion = runtime.Version()

// CheckGoVersion returns a *Refusal if this program's Go version has not passed the soak.
func CheckGoVersion() error {
	release, _, _ := strings.Cut(strings.TrimPrefix(GoVersion, "devel "), " ")
	if slices.Contains(soaked, version.Lang(release)) {
		return nil
	}
	return &Refusal{
		Reason: fmt.Sprintf("forks have not been tested at length with %s, but with %s",
			GoVersion, strings.Join(soaked, ", ")),
		Remedy: "build the program with one of these, or set Config.ForkserverAnyGo",
	}
}

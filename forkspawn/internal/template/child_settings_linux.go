//go:build amd64 || arm64

package template

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// An executed program reads these variables once, at its start: the first three are
// the runtime's, and TZ is package time's. In a forked child the template has read
// its own. GODEBUG is not among them: the runtime reads it again after os.Setenv.
var startVariables = [...]string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "TZ"}

// variable is the value of an environment variable.
type variable struct {
	value string
	set   bool
}

func lookupStartVariables() (all [len(startVariables)]variable) {
	for i, key := range startVariables {
		all[i].value, all[i].set = os.LookupEnv(key)
	}
	return all
}

// applyStartVariables gives the variables that differ from the template's their
// effect: TZ at once, and those of the runtime when the child is complete.
func (s *server) applyStartVariables(before [len(startVariables)]variable) error {
	for i, now := range lookupStartVariables() {
		if now == before[i] {
			continue
		}
		restore := s.restore
		switch startVariables[i] {
		case "GOGC":
			s.restore = func() { restore(); debug.SetGCPercent(gcPercent(now.value)) }
		case "GOMEMLIMIT":
			limit, err := memoryLimit(now.value)
			if err != nil {
				return err
			}
			s.restore = func() { restore(); debug.SetMemoryLimit(limit) }
		case "GOMAXPROCS":
			s.restore = func() {
				restore()
				if n, err := strconv.Atoi(now.value); err == nil && n > 0 {
					runtime.GOMAXPROCS(n)
				} else {
					runtime.SetDefaultGOMAXPROCS()
				}
			}
		case "TZ":
			time.Local = local(now)
		}
	}
	return nil
}

// gcPercent follows the rules of GOGC (package runtime).
func gcPercent(value string) int {
	if value == "off" {
		return -1
	}
	if n, err := strconv.ParseInt(value, 10, 32); err == nil {
		return int(n)
	}
	return 100
}

// memoryLimit follows the rules of GOMEMLIMIT (package runtime): a number, and B,
// KiB, MiB, GiB, TiB or nothing. The runtime ends a program with another value.
func memoryLimit(value string) (int64, error) {
	if value == "" || value == "off" {
		return math.MaxInt64, nil
	}
	number, shift := strings.TrimSuffix(value, "B"), 0
	for i, unit := range []string{"Ki", "Mi", "Gi", "Ti"} {
		if rest, ok := strings.CutSuffix(number, unit); ok && number != value {
			number, shift = rest, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("malformed GOMEMLIMIT %q", value)
	}
	return n << shift, nil
}

// local follows the rules of TZ ([time.Local]).
func local(tz variable) *time.Location {
	name := strings.TrimPrefix(tz.value, ":")
	if !tz.set {
		name = "/etc/localtime"
	}
	if strings.HasPrefix(name, "/") {
		if data, err := os.ReadFile(name); err == nil {
			if loc, err := time.LoadLocationFromTZData("Local", data); err == nil {
				return loc
			}
		}
		return time.UTC
	}
	loc, err := time.LoadLocation(name) // "" is UTC
	if err != nil {
		return time.UTC
	}
	return loc
}

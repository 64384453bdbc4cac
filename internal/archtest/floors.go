package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// Module is the path of the root module.
const Module = "github.com/spawnwire/spawnwire"

// Floors is the plan of the module, from the ground up. A package imports only
// packages on lower floors. Test files may import any package. The paths are
// relative to Module.
//
// The rules for depguard in .golangci.yml are made from this table: run
// go test ./internal/archtest -update after a change.
var Floors = [][]string{
	0: {
		".",
		"forkspawn/internal/osproc/vfork",
		"forkspawn/internal/template/refork",
		"internal/access",
		"internal/archtest",
		"internal/cbor",
		"internal/gobuild",
		"internal/memfd",
		"internal/monotime",
		"internal/neterr",
		"internal/progname",
		"internal/wait",
	},
	1: {
		"forkspawn/internal/capture",
		"forkspawn/internal/osproc",
		"forkspawn/internal/template/refork/selftest",
		"internal/archtest/measure",
		"internal/frame",
		"internal/slab",
		"internal/testkit",
		"internal/unixsock",
		"internal/values",
	},
	2: {
		"blob",
		"forkspawn/internal/reaper",
		"forkspawn/internal/reforktest",
		"forkspawn/internal/reforktest/forksoak",
		"forkspawn/internal/reforktest/helper",
		"internal/inspect",
		"internal/link",
		"internal/testkit/containers",
		"internal/testkit/netns",
		"transport",
	},
	3: {
		"call",
		"forkspawn/internal/localnet",
		"internal/network",
		"internal/testkit/slurm",
		"internal/testkit/sshd",
		"spawnspec",
		"transport/tcp",
		"transport/uds",
	},
	4: {
		"forkspawn/internal/address",
		"forkspawn/internal/supervisor",
		"handshake",
		"transport/tls",
	},
	5: {
		"forkspawn/internal/template",
		"internal/testkit/nettest",
	},
	6: {
		"forkspawn",
	},
	7: {
		"examples/peers",
		"examples/plugin/words",
		"forkspawn/siblings",
		"forkspawn/spawntest",
		"internal/telemetry",
		"internal/testkit/launching",
		"internal/testkit/roles",
		"launch/internal/session",
		"live",
	},
	8: {
		"launch/oci",
		"launch/slurm",
		"launch/ssh",
	},
	9: {
		"bench",
		"bench/spawnbench",
		"bench/startcost",
		"bench/startcost/connects",
		"bench/startcost/linked",
		"bench/startcost/smallest",
		"cmd/spawnwire",
		"examples/calls",
		"examples/hello",
		"examples/mcp",
		"examples/plugin",
		"examples/plugin/kv",
		"examples/plugin/shout",
		"examples/plugin/three",
		"examples/polyglot",
		"examples/treehash",
		"examples/treehash/record",
		"examples/tutorial",
		"examples/tutorial/answer",
		"examples/tutorial/interrupt",
		"examples/tutorial/pool",
		"examples/tutorial/replace",
		"examples/warmtable",
	},
}

// TestOnly lists the packages for test files. No production code imports them.
var TestOnly = []string{
	"forkspawn/spawntest",
	"internal/gobuild",
	"internal/testkit",
	"internal/testkit/containers",
	"internal/testkit/launching",
	"internal/testkit/nettest",
	"internal/testkit/roles",
	"internal/testkit/slurm",
	"internal/testkit/sshd",
	"internal/testkit/netns",
}

// Check compares the imports of the packages with floors and testOnly, and
// returns a sentence for each fault. A package on no floor or on two floors is
// a fault. So is an import from the same floor or from above, and an import of
// a package in testOnly by one that is not.
func Check(floors [][]string, testOnly []string, packages []Package) []string {
	var faults []string
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Sprintf(format, args...))
	}
	floor := make(map[string]int)
	for n, paths := range floors {
		for _, path := range paths {
			if other, ok := floor[path]; ok {
				fault("%s stands on floor %d and on floor %d", path, other, n)
			}
			floor[path] = n
		}
	}
	for _, p := range packages {
		from, ok := floor[p.Path]
		if !ok {
			fault("%s stands on no floor: add it to Floors in internal/archtest/floors.go", p.Path)
			continue
		}
		for _, path := range p.Imports {
			to, ok := floor[path]
			switch {
			case !ok:
				fault("%s imports %s, and %s stands on no floor", p.Path, path, path)
			case to > from:
				fault("%s (floor %d) imports %s (floor %d): upward", p.Path, from, path, to)
			case to == from:
				fault("%s imports %s, and both stand on floor %d: sideways", p.Path, path, to)
			}
			if slices.Contains(testOnly, path) && !slices.Contains(testOnly, p.Path) {
				fault("%s imports %s outside its tests, and %s is for tests only",
					p.Path, path, path)
			}
		}
	}
	return faults
}

// Depguard returns floors and testOnly as rules of depguard, in the format of
// .golangci.yml. The rule of a floor allows the packages of lower floors and
// denies all others of the module. Packages
// in testOnly have no rule, because a rule does not allow them each other.
func Depguard(floors [][]string, testOnly []string) string {
	var b strings.Builder
	for n, paths := range floors {
		paths = importing(paths, testOnly)
		if len(paths) == 0 {
			continue
		}
		fmt.Fprintf(&b, "        floor-%d:\n          list-mode: lax\n          files:\n", n)
		for _, path := range paths {
			fmt.Fprintf(&b, "            - \"${base-path}/%s/*.go\"\n", path)
		}
		b.WriteString("            - \"!$test\"\n")
		if n > 0 {
			b.WriteString("          allow:\n")
		}
		for _, path := range importing(slices.Concat(floors[:n]...), testOnly) {
			fmt.Fprintf(&b, "            - %s/%s$\n", Module, path)
		}
		fmt.Fprintf(&b, "          deny:\n            - pkg: %s\n", Module)
		fmt.Fprintf(&b, "              desc: floor %d imports only from lower floors\n", n)
	}
	return b.String()
}

// importing returns the paths without those in testOnly, and without the root
// package, because it has no code.
func importing(paths, testOnly []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		return path == "." || slices.Contains(testOnly, path)
	})
}

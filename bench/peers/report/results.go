// Package report writes results as JSON, Markdown tables and plots.
package report

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spawnwire/spawnwire/bench/peers/growth"
	"github.com/spawnwire/spawnwire/bench/peers/measure"
	"github.com/spawnwire/spawnwire/bench/peers/peer"
	"github.com/spawnwire/spawnwire/bench/peers/spawn"
)

// Results are all results of a run. Sections that were not measured are empty.
type Results struct {
	Machine  Machine         `json:"machine"`
	Rounds   int             `json:"rounds"`
	Turn     time.Duration   `json:"turn_ns"`
	Tables   []measure.Table `json:"tables,omitempty"`
	Spawns   int             `json:"spawns,omitempty"` // of each
	Spawn    []spawn.Row     `json:"spawn,omitempty"`
	Channels []growth.Line   `json:"channels,omitempty"`
	Messages []growth.Line   `json:"messages,omitempty"`
	Notes    []string        `json:"notes,omitempty"`  // omissions and their reasons
	Errors   []string        `json:"errors,omitempty"` // of sections
}

// Machine describes the machine and the versions of a run.
type Machine struct {
	Go       string   `json:"go"`
	Platform string   `json:"platform"`
	Kernel   string   `json:"kernel"`
	CPU      string   `json:"cpu"`
	CPUs     int      `json:"cpus"`
	Compiler string   `json:"compiler"` // of the C floor
	Peers    []string `json:"peers"`    // module and version
	Begun    string   `json:"begun"`
	Load     string   `json:"load"`     // average at the start
	LoadEnd  string   `json:"load_end"` // average at the end
}

// ThisMachine describes this machine. Unavailable values are "unknown".
func ThisMachine() Machine {
	return Machine{
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		CPUs: runtime.NumCPU(), CPU: cpu(),
		Kernel: firstLine("uname", "-sr"), Compiler: firstLine("cc", "--version"),
		Peers: versions(), Begun: time.Now().UTC().Format(time.RFC3339), Load: Load(),
	}
}

// Load returns the load averages of 1, 5 and 15 minutes.
func Load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

func cpu() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok &&
			strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	line, _, _ := strings.Cut(string(out), "\n")
	if err != nil || line == "" {
		return "unknown"
	}
	return line
}

// versions returns the module and version of each peer, without duplicates.
func versions() []string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	var all []string
	seen := map[string]bool{"": true}
	for _, p := range peer.All() {
		if seen[p.Module()] {
			continue
		}
		seen[p.Module()] = true
		for _, dep := range info.Deps {
			if dep.Path == p.Module() {
				version := dep.Version
				if dep.Replace != nil {
					version = "this tree"
				}
				all = append(all, dep.Path+" "+version)
			}
		}
	}
	return all
}

// Write writes the results to a file as JSON.
func (r *Results) Write(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// Read reads a file written by Write.
func Read(file string) (*Results, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(Results)
	return r, json.Unmarshal(b, r)
}

// Failed describes everything that has an error instead of results.
func (r *Results) Failed() []string {
	all := slices.Clone(r.Errors)
	for _, t := range r.Tables {
		for _, row := range t.Rows {
			if row.Error != "" {
				all = append(all, row.Peer+", "+t.Job.String()+": "+row.Error)
			}
		}
	}
	for _, row := range r.Spawn {
		if row.Error != "" {
			all = append(all, row.Name+", spawn: "+row.Error)
		}
	}
	return all
}

package supervisor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// oomKills returns how many processes of this process's control group the kernel has
// killed for lack of memory, or 0 if that is not known. The sources are memory.events
// of version 2 (cgroup-v2.rst in the kernel's documentation), and memory.oom_control of
// version 1.
func oomKills() int {
	groups, _ := os.ReadFile("/proc/self/cgroup") // cgroups(7)
	for line := range strings.Lines(string(groups)) {
		field := strings.SplitN(strings.TrimSpace(line), ":", 3)
		root, name := "/sys/fs/cgroup", "memory.events"
		switch {
		case len(field) < 3:
			continue
		case field[1] == "memory":
			root, name = root+"/memory", "memory.oom_control"
		case field[1] != "":
			continue
		}
		// In a container the root can be the group itself.
		for _, dir := range []string{filepath.Join(root, field[2]), root} {
			text, _ := os.ReadFile(filepath.Join(dir, name))
			if _, after, ok := strings.Cut(string(text), "oom_kill "); ok {
				digits, _, _ := strings.Cut(after, "\n")
				n, _ := strconv.Atoi(digits)
				return n
			}
		}
	}
	return 0
}

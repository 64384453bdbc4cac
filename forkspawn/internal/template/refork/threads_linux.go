//go:build amd64 || arm64

package refork

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// CheckThreads returns a [*Refused] if a thread has other credentials, namespaces or
// directories than the first one. All threads of a child get those of the forking thread.
// So a goroutine would lose those of its locked thread. See proc_pid_status(5),
// credentials(7) and namespaces(7).
func CheckThreads() error {
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return &Refused{Reason: "list of the threads", Err: err}
	}
	first := attributes("/proc/self/task/" + strconv.Itoa(os.Getpid()))
	for _, task := range tasks {
		for i, a := range attributes(task) {
			if i < len(first) && a != first[i] {
				return &Refused{
					Reason: fmt.Sprintf("thread %s has %q, and the first thread has %q",
						filepath.Base(task), a, first[i]),
					Remedy: "change credentials, namespaces and directories of the whole " +
						"process, or of a child's threads in a function of AfterFork",
				}
			}
		}
	}
	return nil
}

// attributes returns what a thread can have of its own, in a fixed order. It is empty if
// the thread has ended.
func attributes(task string) (list []string) {
	status, err := os.ReadFile(task + "/status")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(status)) {
		switch key, _, _ := strings.Cut(line, ":"); key {
		case "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
			"NoNewPrivs", "Seccomp":
			list = append(list, strings.Join(strings.Fields(line), " "))
		}
	}
	links, _ := filepath.Glob(task + "/ns/*")
	for _, link := range append(links, task+"/cwd", task+"/root") {
		target, err := os.Readlink(link)
		if err != nil {
			return nil
		}
		list = append(list, filepath.Base(link)+" "+target)
	}
	return list
}

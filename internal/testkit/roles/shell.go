//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// shell does what a shell does for a program in a terminal. It leads the
// session, runs a job in the foreground, and continues it when it was stopped.
// The job is the role runs-job, unless its argument is another job.
func shell(context.Context) error {
	role := "runs-job"
	if len(os.Args) > 1 && (os.Args[1] == "starts-processes" || os.Args[1] == "needs-terminal") {
		role = os.Args[1]
	}
	command := Command(role, os.Args[1:]...)
	job := exec.Command(command.Path, command.Args...)
	job.Env = append(os.Environ(), testkit.RoleEnv+"="+role)
	job.Stdin, job.Stdout, job.Stderr = os.Stdin, os.Stdout, os.Stderr
	job.SysProcAttr = &syscall.SysProcAttr{Foreground: true, Ctty: 0}
	if err := job.Start(); err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(job.Process.Pid, &status, syscall.WUNTRACED, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case status.Stopped():
			fmt.Println("job stopped")
			// As fg does. The job has kept the terminal, because nobody took it.
			if err := syscall.Kill(-job.Process.Pid, syscall.SIGCONT); err != nil {
				return err
			}
		default:
			fmt.Println("job exited", status.ExitStatus())
			return nil
		}
	}
}

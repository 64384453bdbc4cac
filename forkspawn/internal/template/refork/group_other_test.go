//go:build !unix

package refork_test

import "os/exec"

func killGroup(*exec.Cmd) {}

package forkspawn

import (
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nameProcess gives the process its program's name back: executed through /proc/self/exe, the kernel calls
// it "exe" (prctl(2), PR_SET_NAME).
func nameProcess() {
	if len(os.Args) == 0 {
		return
	}
	var name [16]byte // the kernel's limit, with the NUL
	copy(name[:15], filepath.Base(os.Args[0]))
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
}

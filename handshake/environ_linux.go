package handshake

import (
	"bytes"
	"os"

	"golang.org/x/sys/unix"
)

// atExecFn is the entry of the auxiliary vector with the address of the program's file name (getauxval(3)). The kernel has put that
// right behind the environment's strings, as it does since Linux 2.6.
const atExecFn = 31

// eraseEnviron overwrites an entry of the environment that the kernel gave this process, "key=value", where others of its user
// can read it: in /proc/pid/environ, which unsetting a variable does not change. It does what it can: the kernel does
// the access, so that a wrong address is an error and nothing more.
func eraseEnviron(entry string) {
	vector, err := unix.Auxv()
	if err != nil {
		return
	}
	var end uintptr
	for _, v := range vector {
		if v[0] == atExecFn {
			end = v[1]
		}
	}
	if end == 0 {
		return
	}
	pid := os.Getpid()
	want := append([]byte(entry), 0)
	for size := 4 << 10; size <= 1<<20; size *= 4 { // a parent that uses this library has put it last
		b := make([]byte, size)
		there := end - uintptr(size)
		n, err := unix.ProcessVMReadv(pid, iovec(b), []unix.RemoteIovec{{Base: there, Len: size}}, 0)
		if err != nil || n != size {
			return // above the stack's lower end
		}
		if i := bytes.LastIndex(b, want); i >= 0 {
			zeros := make([]byte, len(entry))
			unix.ProcessVMWritev(pid, iovec(zeros), []unix.RemoteIovec{{Base: there + uintptr(i), Len: len(zeros)}}, 0)
			return
		}
	}
}

func iovec(b []byte) []unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return []unix.Iovec{v}
}

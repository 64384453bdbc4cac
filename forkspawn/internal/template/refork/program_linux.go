//go:build amd64 || arm64

package refork

import (
	"os"
	"unsafe"
)

// KeepProgram makes forks copy the page tables of the program's code and
// constants. Usually a fork leaves them out, because the child can get the
// pages from the file again. A fault brings 64 KiB (fault_around_bytes of the
// kernel), and a child needs most of a small program.
//
// A fork copies the tables of a mapping if one of its pages differs from the
// file (vma_needs_copy in mm/memory.c of the kernel). So KeepProgram writes to
// the last page a byte of its own content, through /proc/self/mem, because the
// mapping is not writable. If the kernel forbids it (proc_mem.force_override,
// since Linux 6.12), nothing changes.
func KeepProgram() {
	const constant = "in the program's constants"
	list, err := mappings()
	if err != nil {
		return
	}
	mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer mem.Close()
	for _, m := range list {
		for _, addr := range []uintptr{handlerPC(),
			uintptr(unsafe.Pointer(unsafe.StringData(constant)))} {
			if addr < m.from || addr >= m.to || m.writable || !m.private {
				continue
			}
			var b [1]byte
			if _, err := mem.ReadAt(b[:], int64(m.to)-1); err == nil {
				mem.WriteAt(b[:], int64(m.to)-1)
			}
		}
	}
}

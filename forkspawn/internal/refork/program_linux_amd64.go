package refork

import (
	"os"
	"unsafe"
)

// KeepProgram has forks copy the page tables of the program's code and constants too. A fork leaves them out, as the child
// can have those pages from the file again; but that costs it a fault for each 64 KiB that it touches
// (fault_around_bytes of the kernel), which is most of a small program. A fork takes all of a mapping when one of its pages is
// not the file's any more (vma_needs_copy in mm/memory.c of the kernel). Here that is the last page, which gets a byte of its own
// content written to it, by way of /proc/self/mem, as the mapping is not writable. Where the
// kernel does not allow that (proc_mem.force_override, since Linux 6.12) forks go on as before.
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
		for _, addr := range []uintptr{handlerPC(), uintptr(unsafe.Pointer(unsafe.StringData(constant)))} {
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

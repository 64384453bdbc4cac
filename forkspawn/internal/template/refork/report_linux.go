//go:build amd64 || arm64

package refork

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setReport puts a report into the arena, without the child's numbers.
func setReport(a *arena, r *Report) error {
	a.report = report{}
	if r == nil {
		return nil
	}
	if len(r.Message) > len(a.report.message) || r.PID < 0 || r.PID+4 > len(r.Message) {
		return &Refused{
			Reason: fmt.Sprintf("a report of %d bytes, with the pid at %d", len(r.Message), r.PID)}
	}
	r.Sent = false
	p := &a.report
	p.wanted, p.socket, p.pidAt = true, uintptr(r.Socket), r.PID
	copy(p.message[:], r.Message)
	p.iov = [2]uintptr{uintptr(unsafe.Pointer(&p.message)), uintptr(len(r.Message))}
	p.header = msghdr{iov: uintptr(unsafe.Pointer(&p.iov)), iovLen: 1}
	return nil
}

// sendReport sends the report. It must not block, because threads are frozen.
func sendReport(a *arena) {
	p := &a.report
	if !p.wanted {
		return
	}
	for i := range 4 {
		p.message[p.pidAt+i] = byte(a.pid >> (8 * i))
	}
	if a.pidfd >= 0 {
		size := uint64(unsafe.Offsetof(p.control.pidfd)) + 4
		p.control.header = unix.Cmsghdr{Len: size, Level: unix.SOL_SOCKET, Type: unix.SCM_RIGHTS}
		p.control.pidfd = a.pidfd
		p.header.control, p.header.controlLen = uintptr(unsafe.Pointer(&p.control)),
			unsafe.Sizeof(p.control)
	}
	const flags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	n, _, e := syscall.RawSyscall(syscall.SYS_SENDMSG, p.socket,
		uintptr(unsafe.Pointer(&p.header)), flags)
	p.sent = e == 0 && n == p.iov[1]
}

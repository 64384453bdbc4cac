package transport

import (
	"time"

	"golang.org/x/sys/unix"
)

// leastUnanswered is how many transmissions in a row have had no answer, when a machine is
// taken for dead. One of them may have been lost.
const leastUnanswered = 2

// setRetries makes the kernel repeat what is not acknowledged several times within the
// bound. Without it the pauses double up to two minutes. Linux has the option from 6.15 on.
func (w *deathWatch) setRetries() {
	pause := max(w.after/3, time.Second)
	w.control(func(fd int) {
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, int(pause.Milliseconds()))
	})
}

// plan makes the next look come after d. The caller holds w.mu.
func (w *deathWatch) plan(d time.Duration) {
	if w.timer == nil {
		w.timer = time.AfterFunc(d, w.look)
	} else {
		w.timer.Reset(d)
	}
}

// look asks the kernel whether it waits for the peer's machine, and how long that has been
// silent. After the bound it ends the connection, which wakes its readers and writers.
func (w *deathWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	var info *unix.TCPInfo
	var err error
	if !w.control(func(fd int) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	}) || err != nil {
		return // the connection is closed
	}
	silence := time.Duration(info.Last_ack_recv) * time.Millisecond
	switch unanswered := max(info.Retransmits, info.Probes); {
	case info.Unacked == 0 && info.Notsent_bytes == 0:
		w.plan(w.after / 2) // the kernel's keep-alive is at work
	case silence < w.after || unanswered < leastUnanswered:
		w.plan(max(w.after-silence, w.after/20))
	default:
		w.dead.Store(true)
		w.control(func(fd int) { unix.Shutdown(fd, unix.SHUT_RDWR) })
	}
}

// control calls f with the descriptor. It returns false if the connection is closed.
func (w *deathWatch) control(f func(fd int)) bool {
	raw, err := w.conn.SyscallConn()
	return err == nil && raw.Control(func(fd uintptr) { f(int(fd)) }) == nil
}

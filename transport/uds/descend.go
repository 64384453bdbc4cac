package uds

import (
	"fmt"
	"net"
)

// PeerDescends returns nil when the process at the other end of conn is the one with the number ancestor, in the
// caller's PID namespace, or is shown to descend from it; otherwise an error that matches [ErrNotDescendant] and says
// what is known. The caller knows that ancestor has not been reaped, so that its number is its own.
//
// A process is shown to descend from ancestor when it is in the process group or in the session that ancestor leads,
// or when ancestor is among its parents' parents. One whose line of parents is broken, as by a double fork, and that has left
// the group as well, is not shown to. Into a process group others can move themselves, but only from
// within the same session (setpgid(2)).
//
// On Linux from 6.5 the kernel is asked for the very process that connected (SO_PEERPIDFD in unix(7)), and not only for
// its number: one that has ended is refused, whoever has its number now. Before that, and on Darwin, a number that was given to
// another process since cannot be told. Where there is no answer at all the error matches [errors.ErrUnsupported].
// It may be called concurrently with everything else on conn.
func PeerDescends(conn net.Conn, ancestor int) error {
	return control(conn, func(fd int) error {
		cred, err := peerCred(fd)
		if err != nil {
			return err
		}
		switch cred.PID {
		case ancestor:
			return nil
		case 0:
			return fmt.Errorf("%w of process %d: it is not in this PID namespace", ErrNotDescendant, ancestor)
		}
		peer, err := holdPeer(fd)
		if err != nil {
			return fmt.Errorf("%w of process %d: process %d: %w", ErrNotDescendant, ancestor, cred.PID, err)
		}
		defer peer.release()
		if err := descends(cred.PID, ancestor); err != nil {
			return fmt.Errorf("%w of process %d: process %d: %w", ErrNotDescendant, ancestor, cred.PID, err)
		}
		if !peer.there() { // what was seen may have been somebody else's
			return fmt.Errorf("%w of process %d: process %d: %w", ErrNotDescendant, ancestor, cred.PID, errEnded)
		}
		return nil
	})
}

package uds

import (
	"fmt"
	"net"
	"syscall"
)

// Cred is who is at the other end of a Unix socket, as the kernel recorded it.
type Cred struct {
	PID      int    // process id in the caller's PID namespace; 0 if the peer is not in it
	UID, GID uint32 // effective user and group id, in the caller's user namespace
}

// PeerCred asks the kernel who is at the other end of conn: SO_PEERCRED on Linux (unix(7)),
// LOCAL_PEERCRED and LOCAL_PEERPID on Darwin (unix(4)). Elsewhere the error matches
// [errors.ErrUnsupported].
//
// The kernel took the note when the connection was made: on the accepting side it tells who called
// connect(2), on the dialing side who called listen(2), for a socket pair who called socketpair(2).
// That process may have handed its descriptor on since, and after its end its pid may belong to
// another. So a uid or gid that fits is worth more than a pid that does. [PeerDescends] looks closer.
//
// conn is a [*net.UnixConn] or a type that embeds one. Any other is [ErrNotUnix]. PeerCred may be
// called concurrently with everything else on conn.
func PeerCred(conn net.Conn) (cred Cred, err error) {
	err = control(conn, func(fd int) (err error) {
		cred, err = peerCred(fd)
		return err
	})
	return cred, err
}

// control calls f with the descriptor of a Unix socket.
func control(conn net.Conn, f func(fd int) error) error {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return notUnix(conn)
	}
	if _, ok := conn.LocalAddr().(*net.UnixAddr); !ok {
		return notUnix(conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return fmt.Errorf("uds: peer credentials: %w", err)
	}
	var ferr error
	err = raw.Control(func(fd uintptr) { ferr = f(int(fd)) })
	if err == nil {
		err = ferr
	}
	if err != nil {
		return fmt.Errorf("uds: peer credentials: %w", err)
	}
	return nil
}

func notUnix(conn net.Conn) error {
	return fmt.Errorf("uds: peer credentials: %w: %T", ErrNotUnix, conn)
}

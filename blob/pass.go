package blob

import (
	"context"
	"fmt"
	"net"

	"github.com/spawnwire/spawnwire/internal/unixsock"
)

// Send passes a Blob over a connection. The process at the other end calls [Receive]. conn
// is a Unix socket, for example a connection of forkspawn.Child.Open. Send does not wait
// for the receiver. If ctx ends before conn has room, nothing was sent, and the error is
// the cause of ctx. Nobody else must write to conn during a Send.
func Send(ctx context.Context, conn net.Conn, b *Blob) error {
	if err := unixsock.SendFiles(ctx, conn, b.file); err != nil {
		return fmt.Errorf("blob: send %q: %w", b.file.Name(), err)
	}
	return nil
}

// Receive receives a Blob from [Send]. It waits until ctx ends. The caller must close the
// Blob. The errors are those of [Open]. At the end of the connection the error is io.EOF.
func Receive(ctx context.Context, conn net.Conn) (*Blob, error) {
	files, err := unixsock.ReceiveFiles(ctx, conn, 1)
	if err != nil {
		return nil, fmt.Errorf("blob: receive: %w", err)
	}
	defer files[0].Close()
	return Open(files[0])
}

//go:build unix

package roles

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// takesChannel sends a message and a line at once, echoes bytes until their end, and
// exits with 3.
func takesChannel(ctx context.Context, p *forkspawn.Parent) error {
	if err := p.Send(ctx, "bytes follow"); err != nil {
		return err
	}
	conn, err := p.Conn(ctx)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "a line\n"); err != nil {
		return err
	}
	if _, err := io.Copy(conn, conn); err != nil {
		return err
	}
	os.Exit(3)
	return nil
}

// servesHTTP serves HTTP on its parent's connections.
func servesHTTP(ctx context.Context, p *forkspawn.Parent) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
		w.Write(body)
	})
	mux.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) { os.Exit(4) })
	err := http.Serve(connListener{ctx, p}, mux)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

type connListener struct {
	ctx    context.Context
	parent *forkspawn.Parent
}

func (l connListener) Accept() (net.Conn, error) { return l.parent.Accept(l.ctx) }
func (l connListener) Close() error              { return nil }
func (l connListener) Addr() net.Addr            { return &net.UnixAddr{Net: "unix"} }

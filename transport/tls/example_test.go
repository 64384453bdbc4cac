package tls_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/spawnwire/spawnwire/transport"
	spawntls "github.com/spawnwire/spawnwire/transport/tls"
)

// The listener makes a certificate, and its address pins it. The dialer gets the address
// from the listener's process and accepts no other certificate.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	var tr spawntls.Transport
	l, err := tr.Listen(ctx, transport.Addr{Scheme: transport.SchemeTLS, Target: "localhost:0"})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	addr := transport.AddrOf(l.Addr()) // with the port and the pin

	dialed := make(chan error, 1)
	go func() { // usually another process
		wrong := addr
		wrong.Pin[0]++
		_, err := tr.Dial(ctx, wrong)
		dialed <- err

		conn, err := tr.Dial(ctx, addr)
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "hello")
	}()

	accept := func() *tls.Conn {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		return conn.(*tls.Conn)
	}
	refused := accept()
	fmt.Println("a dialer with another pin leaves:", refused.HandshakeContext(ctx) != nil)
	refused.Close()
	fmt.Println("it sees another listener:", errors.As(<-dialed, new(*spawntls.PinError)))

	conn := accept()
	defer conn.Close()
	if err := conn.HandshakeContext(ctx); err != nil {
		log.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	fmt.Println(string(text), err)
	// Output:
	// a dialer with another pin leaves: true
	// it sees another listener: true
	// hello <nil>
}

package tcp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tcp"
)

// The zero Transport serves only this machine.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	var tr tcp.Transport
	_, err := tr.Listen(ctx, transport.Addr{Scheme: transport.SchemeTCP, Target: "0.0.0.0:0"})
	var remote *tcp.RemoteError
	fmt.Println("the world may not connect:", errors.As(err, &remote))

	l, err := tr.Listen(ctx, transport.Addr{Scheme: transport.SchemeTCP, Target: "localhost:0"})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	addr := transport.AddrOf(l.Addr()) // with the port that the kernel chose

	go func() { // usually another process
		conn, err := tr.Dial(ctx, addr)
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "hello")
	}()

	conn, err := l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	fmt.Println(string(text), err)
	// Output:
	// the world may not connect: true
	// hello <nil>
}

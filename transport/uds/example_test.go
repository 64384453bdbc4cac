package uds_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// One process listens in a private directory and another one dials. Then the first one
// asks the kernel for the credentials.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	dir, err := os.MkdirTemp("", "") // with mode 0700
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	addr := transport.Addr{Scheme: transport.SchemeUDS, Target: filepath.Join(dir, "s")}
	l, err := uds.Listen(ctx, addr)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	go func() { // usually another process
		conn, err := uds.Dial(ctx, addr)
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
	// Where PeerCred is unsupported, the directory's mode alone keeps others out.
	if cred, err := uds.PeerCred(conn); err == nil && int(cred.UID) != os.Geteuid() {
		log.Fatalf("user %d is not welcome", cred.UID)
	}
	text, err := io.ReadAll(conn)
	fmt.Println(string(text), err)
	// Output: hello <nil>
}

package uds_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/spawnwire/spawnwire/transport/uds"
)

// A parent listens in a private directory, a child dials, and the parent asks the kernel who came.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	dir, err := uds.NewDir()
	if err != nil {
		log.Fatal(err)
	}
	defer dir.Remove()
	addr := dir.Addr("parent")
	l, err := uds.Listen(ctx, addr)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	go func() { // the child, which would be another process
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
	// Where the kernel does not tell, the directory's mode is what keeps others out.
	if cred, err := uds.PeerCred(conn); err == nil && int(cred.UID) != os.Geteuid() {
		log.Fatalf("user %d is not welcome", cred.UID)
	}
	said, err := io.ReadAll(conn)
	fmt.Println(string(said), err)
	// Output: hello <nil>
}

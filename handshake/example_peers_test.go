package handshake_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/spawnwire/spawnwire/handshake"
)

// Two programs that did not start each other read their key from one file. The first one
// to come makes it.
func ExampleServePeers() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	key, err := handshake.KeyFile(filepath.Join(dir, "key"))
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error)
	go func() {
		cfg := handshake.PeerConfig{Identity: handshake.Identity{Name: "cache"}, Key: key}
		served <- handshake.ServePeers(ctx, ln, cfg,
			func(ctx context.Context, peer *handshake.Peer) {
				peer.Channel.Send(ctx, "good morning, "+peer.Name)
			})
	}()

	for _, name := range []string{"web", "mail"} { // two other programs
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		peer, err := handshake.ConnectPeer(ctx, conn,
			handshake.PeerConfig{Identity: handshake.Identity{Name: name}, Key: key})
		if err != nil {
			log.Fatal(err)
		}
		var greeting string
		if err := peer.Channel.Recv(ctx, &greeting); err != nil {
			log.Fatal(err)
		}
		fmt.Println(greeting)
		peer.Close()
	}
	stop()
	fmt.Println(<-served)
	// Output:
	// good morning, web
	// good morning, mail
	// context canceled
}

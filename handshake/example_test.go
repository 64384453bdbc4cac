package handshake_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// A parent registers a child before it starts it, and the child joins with its
// ticket. Here the child is a goroutine. A real child calls TakeTicket to get the
// ticket from its environment.
func ExampleListener() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	// The parent listens on a socket in a private directory.
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ln, err := uds.Listen(ctx,
		transport.Addr{Scheme: transport.SchemeUDS, Target: filepath.Join(dir, "parent")})
	if err != nil {
		log.Fatal(err)
	}
	l, err := handshake.Listen(ln,
		handshake.ListenerConfig{Identity: handshake.Identity{Name: "boss"}})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	x, err := l.Expect(handshake.Expectation{Spec: []byte("shout")})
	if err != nil {
		log.Fatal(err)
	}
	defer x.Cancel()
	// A child process gets the ticket in its environment:
	// cmd.Env = append(os.Environ(), handshake.TicketEnv+"="+x.Ticket().Encode())
	go child(ctx, x.Ticket().Encode())
	x.SetPID(os.Getpid()) // cmd.Process.Pid

	peer, err := x.WaitForPeer(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	if err := peer.Channel.Send(ctx, "hello"); err != nil {
		log.Fatal(err)
	}
	var reply string
	if err := peer.Channel.Recv(ctx, &reply); err != nil {
		log.Fatal(err)
	}
	fmt.Println(peer.Name, "says", reply)
	// Output: worker says hello, boss! My orders are to shout
}

func child(ctx context.Context, text string) {
	ticket, err := handshake.ParseTicket(text)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := net.Dial(ticket.Addr.Network(), ticket.Addr.Target)
	if err != nil {
		log.Fatal(err)
	}
	j, err := handshake.Join(ctx, conn, ticket, handshake.JoinConfig{Name: "worker"})
	if err != nil {
		log.Fatal(err)
	}
	defer j.Channel.Close()
	if string(j.Spec) != "shout" {
		j.Fail(ctx, handshake.PhaseSpec, errors.New("I can only shout"))
		return
	}
	if err := j.Ready(ctx, nil); err != nil {
		log.Fatal(err)
	}
	var word string
	if err := j.Channel.Recv(ctx, &word); err != nil {
		log.Fatal(err)
	}
	j.Channel.Send(ctx, fmt.Sprintf("%s, %s! My orders are to %s", word, j.Parent.Name, j.Spec))
}

// Two programs that share a key connect. The handshake proves to each of them
// that the other knows the key.
func ExampleConnectPeer() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	key := []byte("read from a file that both can read")

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()

	go func() { // the first program
		conn, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		peer, err := handshake.AcceptPeer(ctx, conn, handshake.PeerConfig{
			Identity: handshake.Identity{ID: "cache-1", Name: "cache"}, Key: key,
		})
		if err != nil {
			log.Fatal(err)
		}
		defer peer.Close()
		peer.Channel.Send(ctx, "good morning, "+peer.Name)
	}()

	conn, err := net.Dial("tcp", ln.Addr().String()) // the second program
	if err != nil {
		log.Fatal(err)
	}
	peer, err := handshake.ConnectPeer(ctx, conn, handshake.PeerConfig{
		Identity: handshake.Identity{ID: "web-1", Name: "web"}, Key: key,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	var greeting string
	if err := peer.Channel.Recv(ctx, &greeting); err != nil {
		log.Fatal(err)
	}
	fmt.Println(peer.ID, "says", greeting)
	// Output: cache-1 says good morning, web
}

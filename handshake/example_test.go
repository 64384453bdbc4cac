package handshake_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// A parent expects a child before it starts it, and the child joins with the ticket that it was given. Here
// the child is a goroutine; a real one finds its ticket in its environment, with TakeTicket.
func ExampleListener() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	// The parent: a socket in a private directory, and the register of children on top of it.
	dir, err := uds.NewDir()
	if err != nil {
		log.Fatal(err)
	}
	defer dir.Remove()
	ln, err := uds.Listen(ctx, dir.Addr("parent"))
	if err != nil {
		log.Fatal(err)
	}
	l, err := handshake.Listen(ln, handshake.ListenerConfig{Identity: handshake.Identity{Name: "boss"}})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	ticket := handshake.Ticket{Addr: l.Addr(), ID: handshake.NewID(), Secret: handshake.NewSecret()}
	x, err := l.Expect(handshake.Expectation{ID: ticket.ID, Secret: ticket.Secret, Spec: []byte("shout")})
	if err != nil {
		log.Fatal(err)
	}
	defer x.Cancel()
	x.SetPID(os.Getpid())          // cmd.Process.Pid
	go child(ctx, ticket.Encode()) // exec.Cmd.Env = append(..., handshake.TicketEnv+"="+ticket.Encode())

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
		j.Fail(ctx, handshake.FailedError{Phase: handshake.PhaseSpec, Code: handshake.CodeBadSpec, Text: "I can only shout"})
		return
	}
	if err := j.Ready(ctx, handshake.Timings{}); err != nil {
		log.Fatal(err)
	}
	var word string
	if err := j.Channel.Recv(ctx, &word); err != nil {
		log.Fatal(err)
	}
	j.Channel.Send(ctx, fmt.Sprintf("%s, %s! My orders are to %s", word, j.Parent.Name, j.Spec))
}

// Two programs that share a key meet. Each is sure afterwards that the other knows it too.
func ExampleConnectPeer() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	key := []byte("read from a file that both can read")

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()

	go func() { // one program
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

	conn, err := net.Dial("tcp", ln.Addr().String()) // the other
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

package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/spawnwire/spawnwire/transport"
)

func ExampleChannel() {
	here, there := net.Pipe() // or any other connection
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	go func() { // the peer, in another process as a rule
		ch := transport.New(there, transport.Config{})
		defer ch.Close()
		var name string
		if err := ch.Recv(ctx, &name); err != nil {
			return
		}
		ch.Send(ctx, strings.ToUpper(name))
	}()

	ch := transport.New(here, transport.Config{})
	defer ch.Close()
	if err := ch.Send(ctx, "spawnwire"); err != nil {
		fmt.Println(err)
	}
	var reply string
	if err := ch.Recv(ctx, &reply); err != nil {
		fmt.Println(err)
	}
	fmt.Println(reply)

	err := ch.Recv(ctx, &reply)
	fmt.Println(err)
	fmt.Println(errors.Is(err, io.EOF))
	// Output:
	// SPAWNWIRE
	// transport: receive: peer said goodbye with status 0
	// true
}

// A receive that its context ends loses nothing: the next one gets the message.
func ExampleChannel_Recv_cancelled() {
	here, there := net.Pipe()
	ch, peer := transport.New(here, transport.Config{}), transport.New(there, transport.Config{})
	defer ch.Abort()
	defer peer.Abort()

	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	var text string
	err := ch.Recv(ctx, &text)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))

	go peer.Send(context.Background(), "still here")
	if err := ch.Recv(context.Background(), &text); err != nil {
		fmt.Println(err)
	}
	fmt.Println(text)
	// Output:
	// true
	// still here
}

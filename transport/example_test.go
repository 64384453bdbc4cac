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
	here, there := net.Pipe() // or another connection
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	go func() { // the peer, usually in another process
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

// A cancelled receive loses nothing: the next one gets the message.
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

// A Batch sends many small messages with few writes.
func ExampleBatch() {
	here, there := net.Pipe()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() { // the sender
		ch := transport.New(there, transport.Config{})
		defer ch.Close()
		batch := ch.NewBatch()
		for i := range 1000 {
			if err := batch.Send(ctx, i); err != nil {
				return
			}
		}
		batch.Flush(ctx) // at the end, and before a pause
	}()

	ch := transport.New(here, transport.Config{})
	defer ch.Close()
	sum := 0
	for {
		var n int
		if err := ch.Recv(ctx, &n); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			fmt.Println(err)
			return
		}
		sum += n
	}
	fmt.Println(sum)
	// Output: 499500
}

// RecvBorrowed is for messages of unknown size.
func ExampleChannel_RecvBorrowed() {
	here, there := net.Pipe()
	ch, peer := transport.New(here, transport.Config{}), transport.New(there, transport.Config{})
	defer ch.Abort()
	defer peer.Abort()
	go func() {
		peer.SendBytes(context.Background(), []byte("one"))
		peer.SendBytes(context.Background(), []byte("two"))
	}()
	for range 2 {
		p, err := ch.RecvBorrowed(context.Background())
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", p) // p is valid until the next receive
	}
	// Output:
	// one
	// two
}

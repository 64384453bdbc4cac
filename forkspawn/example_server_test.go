//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// A program calls RegisterReadyLater in main, before Init.
func init() { forkspawn.RegisterReadyLater("greeter", greeter) }

// greeter is the entry of a child with an HTTP server. The parent gets the server's
// address with the ready.
func greeter(ctx context.Context, parent *forkspawn.Parent) error {
	var greeting string
	if err := parent.Spec().DecodeArgs(&greeting); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, greeting) })}
	stopped := context.AfterFunc(ctx, func() { server.Close() }) // the parent asks us to stop
	defer stopped()
	if err := parent.Ready(ctx, ln.Addr().String()); err != nil {
		return err
	}
	if err := server.Serve(ln); ctx.Err() == nil {
		return err
	}
	return nil
}

// A group restarts a server that dies. The run function is called for each life
// of the child.
func ExampleGroup_Go() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	group, err := spawner.NewGroup(ctx, forkspawn.GroupConfig{
		Restart: forkspawn.RestartAlways, MaxRestarts: -1, // no limit
	})
	if err != nil {
		log.Fatal(err)
	}

	servers := make(chan *forkspawn.Child)
	addresses := make(chan string)
	group.Go(spawnspec.Spec{Entry: "greeter", Args: "good morning"},
		func(ctx context.Context, child *forkspawn.Child) error {
			var addr string
			if err := child.ReadyValue(&addr); err != nil {
				return err
			}
			servers <- child
			addresses <- addr
			_, err := child.Wait(ctx) // until it ends, or the group is cancelled
			return err
		})

	first := <-servers
	get(<-addresses)
	first.Signal(syscall.SIGKILL) // an accident
	<-servers
	get(<-addresses)
	group.Cancel(nil)
	group.Wait()
	// Output:
	// good morning
	// good morning
}

func get(addr string) {
	response, err := http.Get("http://" + addr)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	http.DefaultClient.CloseIdleConnections()
	fmt.Println(string(text))
}

// A child that is stopped or hangs is replaced. Debuggers also stop a process, so the
// time is one that a person can wait.
func ExampleGroupConfig_liveness() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	group, err := spawner.NewGroup(ctx, forkspawn.GroupConfig{
		Restart: forkspawn.RestartOnFailure, Liveness: time.Second, // rather a minute
	})
	if err != nil {
		log.Fatal(err)
	}
	lives := 0
	group.Go(spawnspec.Spec{Entry: "greeter", Args: "hello"},
		func(ctx context.Context, child *forkspawn.Child) error {
			if lives++; lives == 2 {
				return nil // done
			}
			child.Signal(syscall.SIGSTOP) // an accident
			<-ctx.Done()
			fmt.Println(errors.Is(context.Cause(ctx), forkspawn.ErrUnresponsive))
			return ctx.Err()
		})
	fmt.Println(group.Wait(), lives)
	// Output:
	// true
	// <nil> 2
}

// The child runs on another machine and connects over TLS. ssh carries the ticket
// on its stdin, and the shell there puts it into the environment. So the other sshd
// needs no setting.
func ExampleConfig_otherMachines() {
	here := "127.0.0.1"                      // an address that the other machine can reach
	ssh := []string{"env", "-i", "sh", "-c"} // []string{"ssh", "-o", "BatchMode=yes", "host"}
	program := os.Args[0]                    // its path on the other machine

	listen, err := transport.ParseAddr("tls://" + here + ":0")
	if err != nil {
		log.Fatal(err)
	}
	spawner, err := forkspawn.New(forkspawn.Config{Listen: listen})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	remote := "read -r SPAWNWIRE_TICKET; export SPAWNWIRE_TICKET; exec " + program
	child, err := spawner.Spawn(context.Background(), spawnspec.Spec{Entry: "echo"},
		forkspawn.WithCommand(forkspawn.Command{
			Path: ssh[0], Args: append(ssh[1:], remote), TicketOnStdin: true,
		}))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(child.Stop(context.Background()))
	// Output: ended as asked: exit status 0 <nil>
}

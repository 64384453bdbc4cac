//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// Ctrl-C ends the context, and the children are asked to stop. A second Ctrl-C
// shortens the graces.
func ExampleSpawner_NotifyContext() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := spawner.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer spawner.Close() // runs before stop

	child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "echo"})
	if err != nil {
		log.Fatal(err)
	}
	syscall.Kill(os.Getpid(), syscall.SIGINT) // somebody presses Ctrl-C
	var reply string
	fmt.Println(child.Recv(ctx, &reply) != nil, context.Cause(ctx))
	// Output: true forkspawn: signal: interrupt
}

// After a first Ctrl-C the program takes no new work, and finishes what it has begun.
func ExampleSpawner_NotifyDrain() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	accepting, ctx, stop := spawner.NotifyDrain(context.Background(), os.Interrupt)
	defer stop()
	defer spawner.Close() // runs before stop

	child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "echo"})
	if err != nil {
		log.Fatal(err)
	}
	for n := 1; accepting.Err() == nil; n++ {
		if err := child.Send(ctx, n); err != nil { // a job
			log.Fatal(err)
		}
		if n == 2 {
			syscall.Kill(os.Getpid(), syscall.SIGINT) // somebody presses Ctrl-C meanwhile
			<-accepting.Done()
		}
		var reply int
		fmt.Println(child.Recv(ctx, &reply), reply) // also after the first Ctrl-C
	}
	fmt.Println(context.Cause(accepting), ctx.Err())
	// Output:
	// <nil> 1
	// <nil> 2
	// forkspawn: signal: interrupt <nil>
}

// Two children wait in reserve, so Spawn need not wait for the start of a
// process.
func ExampleConfig_spares() {
	spawner, err := forkspawn.New(forkspawn.Config{Spares: 2})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	ctx := context.Background()
	if err := spawner.AwaitSpares(ctx); err != nil { // optional
		log.Fatal(err)
	}
	child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "echo"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("from a spare:", child.Boot().Spare)
	// Output: from a spare: true
}

// words is loaded once, in the template. All children share its memory.
var words = sync.OnceValue(func() map[string]int {
	return map[string]int{"hello": 1, "world": 2} // usually a large table
})

// seed is renewed in each child. Otherwise all children would have the
// template's.
var seed = maphash.MakeSeed()

// A program calls these functions in main, before Init.
func init() {
	forkspawn.RegisterWarmUp("words", func() error {
		words()
		return nil
	})
	forkspawn.AfterFork(func() error {
		seed = maphash.MakeSeed()
		return nil
	})
	forkspawn.Register("look up", func(ctx context.Context, parent *forkspawn.Parent) error {
		var word string
		for {
			if err := parent.Recv(ctx, &word); err != nil {
				return err
			}
			if err := parent.Send(ctx, words()[word]); err != nil {
				return err
			}
		}
	})
}

// The template loads a table once, and children are forked from it.
func ExampleRegisterWarmUp() {
	spawner, err := forkspawn.New(forkspawn.Config{
		Method: forkspawn.MethodForkserver, WarmUp: "words",
		// Elsewhere children are executed. They call no warm-up, and load the words at first use.
		ForkserverFallback: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	ctx := context.Background()
	if err := spawner.AwaitTemplate(ctx); err != nil { // has called the warm-up
		log.Fatal(err)
	}
	child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "look up"})
	if err != nil {
		log.Fatal(err)
	}
	if err := child.Send(ctx, "world"); err != nil {
		log.Fatal(err)
	}
	var found int
	fmt.Println(child.Recv(ctx, &found), found)
	// Output: <nil> 2
}

// The child's stderr goes to a writer, and its end into errors.
func ExampleCapture() {
	var output strings.Builder // a log file, in a real program
	spawner, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Capture(&output)})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	_, err = spawner.Spawn(context.Background(), spawnspec.Spec{Name: "talker"},
		forkspawn.WithCommand(forkspawn.Command{
			Path: "sh", Args: []string{"-c", "echo no config file >&2; exit 2"},
		}))
	fmt.Println(strings.HasSuffix(err.Error(), `stderr: "no config file"`))
	fmt.Print(output.String())
	// Output:
	// true
	// no config file
}

// Lines has the output of each child, line by line. WithStdin gives one child its input.
func ExampleLines() {
	spawner, err := forkspawn.New(forkspawn.Config{
		Stdout: forkspawn.Lines(func(e forkspawn.ChildEvent, line []byte) {
			fmt.Printf("%s: %s\n", e.Name, line)
		}),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	ctx := context.Background()
	child, err := spawner.Start(ctx, forkspawn.Command{Path: "sort"},
		forkspawn.WithStdin(forkspawn.From(strings.NewReader("pear\napple\n"))))
	if err != nil {
		log.Fatal(err)
	}
	status, err := child.Wait(ctx)
	spawner.Close() // has all output
	fmt.Println(status, err)
	// Output:
	// sort: apple
	// sort: pear
	// exit status 0 <nil>
}

// Trace has a function for each step of a child's life.
func ExampleTrace() {
	spawner, err := forkspawn.New(forkspawn.Config{Trace: &forkspawn.Trace{
		Phase: func(e forkspawn.ChildEvent, phase handshake.Phase) {
			if phase == handshake.PhaseSpec {
				fmt.Println(e.Name, "has its spec")
			}
		},
		Ready: func(e forkspawn.ChildEvent, boot forkspawn.BootTimes) {
			fmt.Println(e.Name, "is ready", boot.Total > 0)
		},
		Exited: func(e forkspawn.ChildEvent, status forkspawn.ExitStatus) {
			fmt.Println(e.Name, "has ended:", status)
		},
	}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := spawner.Spawn(context.Background(),
		spawnspec.Spec{Name: "echo-1", Entry: "echo"}); err != nil {
		log.Fatal(err)
	}
	spawner.Close()
	// Output:
	// echo-1 has its spec
	// echo-1 is ready true
	// echo-1 has ended: exit status 0
}

// The log has a line for each step at level Debug, and for trouble at level Warn.
func ExampleConfig_logger() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.MessageKey {
				return a
			}
			return slog.Attr{} // a real program keeps the others
		},
	}))
	spawner, err := forkspawn.New(forkspawn.Config{Logger: logger})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := spawner.Spawn(context.Background(), spawnspec.Spec{Entry: "echo"}); err != nil {
		log.Fatal(err)
	}
	spawner.Close()
	// Output:
	// msg="forkspawn: child started"
	// msg="forkspawn: child ready"
	// msg="forkspawn: child asked to stop"
	// msg="forkspawn: child ended"
	// msg="forkspawn: child stopped"
}

// An entry in a goroutine of this process is for debuggers and for fast tests.
func ExampleMethod_inprocess() {
	spawner, err := forkspawn.New(forkspawn.Config{
		Method: forkspawn.MethodInProcess, Stderr: forkspawn.Capture(io.Discard),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "echo"})
	if err != nil {
		log.Fatal(err)
	}
	if err := child.Send(ctx, "hello"); err != nil {
		log.Fatal(err)
	}
	var reply string
	fmt.Println(child.Recv(ctx, &reply), reply, child.PID())
	// Output: <nil> hello 0
}

// The child is another program, which calls Join. Here it is this program again,
// through a wrapper.
func ExampleWithCommand() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	plugin := forkspawn.Command{Path: "nice", Args: []string{"-n", "5", os.Args[0]}}
	child, err := spawner.Spawn(context.Background(),
		spawnspec.Spec{Name: "plugin", Entry: "echo"}, forkspawn.WithCommand(plugin))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(child.Stop(context.Background()))
	// Output: ended as asked: exit status 0 <nil>
}

// The program is a shell that does not know this library. It is ready when it says
// so, and answers over its stdin and stdout.
func ExampleSpawner_Start() {
	spawner, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Capture(nil)})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	script := "echo ready >&2; while read name; do echo hello $name; done; exit 3"
	child, err := spawner.Start(context.Background(),
		forkspawn.Command{Path: "sh", Args: []string{"-c", script}},
		forkspawn.WithStdin(forkspawn.From(strings.NewReader("moon\nsun\n"))),
		forkspawn.WithStdout(forkspawn.Pipe()),
		forkspawn.ReadyOnOutput("ready"))
	if err != nil {
		log.Fatal(err)
	}
	output, err := io.ReadAll(child.Stdout())
	fmt.Print(string(output))
	var exit *forkspawn.ExitError
	fmt.Println(errors.As(err, &exit), exit.Status)
	// Output:
	// hello moon
	// hello sun
	// true exit status 3
}

func init() {
	forkspawn.Register("greet once", func(_ context.Context, parent *forkspawn.Parent) error {
		file, err := parent.File("port")
		if err != nil {
			return err
		}
		ln, err := net.FileListener(file)
		if err != nil {
			return err
		}
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.WriteString(conn, "hello from the child")
		return err
	})
}

// The child serves at a port that the parent has opened.
func ExampleParent_File() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		log.Fatal(err)
	}
	ln.Close() // the file is a copy
	defer file.Close()

	_, err = spawner.Spawn(context.Background(), spawnspec.Spec{Entry: "greet once"},
		forkspawn.WithCommand(forkspawn.Command{Files: map[string]*os.File{"port": file}}))
	if err != nil {
		log.Fatal(err)
	}
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	greeting, err := io.ReadAll(conn)
	fmt.Println(string(greeting), err)
	// Output: hello from the child <nil>
}

// acceptor makes a listener of Parent.Accept.
type acceptor struct {
	ctx    context.Context
	parent *forkspawn.Parent
}

func (a acceptor) Accept() (net.Conn, error) { return a.parent.Accept(a.ctx) }
func (a acceptor) Close() error              { return nil }
func (a acceptor) Addr() net.Addr            { return &net.UnixAddr{Net: "unix"} }

func init() {
	forkspawn.Register("http", func(ctx context.Context, parent *forkspawn.Parent) error {
		return http.Serve(acceptor{ctx, parent}, http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello,", r.URL.Path) }))
	})
}

// The child serves HTTP over connections that nobody else can reach.
func ExampleChild_Open() {
	spawner, err := forkspawn.New(forkspawn.Config{
		Command: forkspawn.Command{Connections: true},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	child, err := spawner.Spawn(context.Background(), spawnspec.Spec{Entry: "http"})
	if err != nil {
		log.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return child.Open(ctx)
		},
	}}
	response, err := client.Get("http://child/moon")
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	fmt.Print(string(body), err)
	// Output:
	// hello, /moon
	// <nil>
}

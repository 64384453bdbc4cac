// Mcp is a host that talks to an MCP server over the server's stdin and stdout. The
// server does not know Spawnwire. Here it is this program again:
//
//	go run ./examples/mcp
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// stdio makes a child's streams one connection. Libraries for MCP and LSP take such
// an io.ReadWriteCloser, or its reader and its writer.
type stdio struct{ child *forkspawn.Child }

func (s stdio) Read(p []byte) (int, error)  { return s.child.Stdout().Read(p) }
func (s stdio) Write(p []byte) (int, error) { return s.child.Stdin().Write(p) }
func (s stdio) Close() error {
	_, err := s.child.Stop(context.Background()) // ends its stdin, then SIGTERM, then SIGKILL
	return err
}

// message is a JSON-RPC 2.0 message. MCP sends one in each line.
type message struct {
	Version string          `json:"jsonrpc"`
	ID      int             `json:"id"`
	Method  string          `json:"method,omitempty"`
	Params  any             `json:"params,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "server" {
		if err := serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := host(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func host() error {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer spawner.Close()
	path, err := os.Executable() // the example plays both roles
	if err != nil {
		return err
	}
	child, err := spawner.Start(context.Background(),
		forkspawn.Command{Path: path, Args: []string{"server"}},
		forkspawn.WithStdin(forkspawn.Pipe()), forkspawn.WithStdout(forkspawn.Pipe()))
	if err != nil {
		return err
	}
	server := stdio{child}
	defer server.Close()
	answers := json.NewDecoder(server)
	for id, request := range []message{
		{Method: "initialize", Params: map[string]string{"protocolVersion": "2025-06-18"}},
		{Method: "tools/call", Params: map[string]any{"name": "crash"}},
	} {
		request.Version, request.ID = "2.0", id
		if err := json.NewEncoder(server).Encode(request); err != nil {
			return err
		}
		var answer message
		err := answers.Decode(&answer)
		if exit := (*forkspawn.ExitError)(nil); errors.As(err, &exit) {
			fmt.Println("the server has ended:", exit.Status, exit.Stderr)
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Printf("%s: %s\n", request.Method, answer.Result)
	}
	return nil
}

// serve is a small MCP server.
func serve(in io.Reader, out io.Writer) error {
	requests := bufio.NewScanner(in)
	for requests.Scan() {
		var m message
		if err := json.Unmarshal(requests.Bytes(), &m); err != nil {
			return err
		}
		if m.Method != "initialize" {
			return errors.New("cannot open the moon")
		}
		answer := message{Version: m.Version, ID: m.ID, Result: json.RawMessage(
			`{"protocolVersion":"2025-06-18","serverInfo":{"name":"moon"}}`)}
		if err := json.NewEncoder(out).Encode(answer); err != nil {
			return err
		}
	}
	return requests.Err()
}

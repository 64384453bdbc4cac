// Spawnwire shows the processes of a program that serves package live.
//
//	spawnwire top [-n COUNT] ADDRESS
//	spawnwire stacks ADDRESS
//
// ADDRESS is a URL, or a port such as :6060 for
// http://127.0.0.1:6060/debug/spawnwire/. Top prints the tree of processes each second,
// on a terminal in place. It ends after COUNT times, or with the program that it shows.
// Stacks prints the stacks of all goroutines of all processes, equal ones once.
//
// The exit code is 1 if the program does not answer, and 2 if the command line is
// wrong.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spawnwire/spawnwire/internal/inspect"
)

const (
	defaultPath = "/debug/spawnwire/"
	interval    = time.Second
	answerBound = 10 * time.Second
	maxAnswer   = 64 << 20 // bytes
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("spawnwire", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: spawnwire top [-n COUNT] ADDRESS\n"+
			"       spawnwire stacks ADDRESS")
	}
	times := flags.Int("n", 0, "")
	command := ""
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	if flags.Parse(args) != nil {
		return 2
	}
	if flags.NArg() != 1 || command != "top" && command != "stacks" {
		flags.Usage()
		return 2
	}
	base, err := address(flags.Arg(0))
	if err != nil {
		fmt.Fprintln(stderr, "spawnwire:", err)
		return 2
	}
	if command == "stacks" {
		err = get(ctx, base, "stacks", func(body io.Reader) error {
			_, err := io.Copy(stdout, body)
			return err
		})
	} else {
		err = top(ctx, base, *times, stdout)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(stderr, "spawnwire:", err)
		return 1
	}
	return 0
}

// address returns the URL of an argument.
func address(arg string) (*url.URL, error) {
	if !strings.Contains(arg, "://") {
		host, port, err := net.SplitHostPort(arg)
		if err != nil {
			return nil, fmt.Errorf("%q is no URL and no address with a port", arg)
		}
		if host == "" {
			host = "127.0.0.1"
		}
		arg = "http://" + net.JoinHostPort(host, port) + defaultPath
	}
	u, err := url.Parse(arg)
	if err == nil && !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
	}
	return u, err
}

// get calls read with the answer for a path below base.
func get(ctx context.Context, base *url.URL, path string, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerBound)
	defer cancel()
	at, err := base.Parse(path)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body := io.LimitReader(answer.Body, maxAnswer)
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(body, 1<<10))
		return fmt.Errorf("%s: %s: %s", at, answer.Status, strings.TrimSpace(string(text)))
	}
	return read(body)
}

// top prints the tree until ctx ends, or the given number of times.
func top(ctx context.Context, base *url.URL, times int, stdout io.Writer) error {
	var last *inspect.Snapshot
	terminal := isTerminal(stdout)
	for n := 1; ; n++ {
		now := new(inspect.Snapshot)
		err := get(ctx, base, "?format=json", func(body io.Reader) error {
			return json.NewDecoder(body).Decode(now)
		})
		if err != nil && last != nil && !errors.Is(err, context.DeadlineExceeded) {
			fmt.Fprintln(stdout, "The program has ended.")
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := stdout.Write(screen(now, last, terminal)); err != nil {
			return err
		}
		last = now
		if n == times {
			return nil
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return nil
		}
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

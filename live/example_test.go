//go:build unix

package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/live"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func Example() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	mux := http.NewServeMux()
	mux.Handle("/debug/spawnwire/", live.Handler(spawner))
	server := httptest.NewServer(mux) // of your own, on the loopback interface
	defer server.Close()

	_, err = spawner.Spawn(context.Background(), spawnspec.Spec{Name: "worker", Entry: "waits"})
	if err != nil {
		log.Fatal(err)
	}
	answer, err := http.Get(server.URL + "/debug/spawnwire/?format=json")
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	var tree struct {
		Processes []struct {
			Name, State string
			Depth       int
		}
	}
	if err := json.NewDecoder(answer.Body).Decode(&tree); err != nil {
		log.Fatal(err)
	}
	for _, p := range tree.Processes {
		fmt.Println(p.Depth, p.Name, p.State)
	}
	// Output:
	// 0 live.test running
	// 1 worker ready
}

func ExampleConfig() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	mux := http.NewServeMux()
	mux.Handle("/debug/spawnwire/", live.Config{
		Hosts: []string{"ops.example.com"},
		Authorize: func(r *http.Request) error {
			_, password, _ := r.BasicAuth()
			if password == "" || password != os.Getenv("OPS_PASSWORD") {
				return errors.New("only operators may do this")
			}
			return nil
		},
	}.Handler(spawner))
}

func ExampleNotifyStacks() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	stop := live.NotifyStacks(spawner, os.Stderr, syscall.SIGUSR1)
	defer stop()
}

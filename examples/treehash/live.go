package main

import (
	"net"
	"net/http"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/live"
)

// serveLive serves a page with the processes until close is called. An address without
// a host, such as ":6060", is one of the loopback interface.
func serveLive(
	address string, spawner *forkspawn.Spawner, stderr *console,
) (close func(), err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host == "" {
		host = "127.0.0.1"
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/debug/spawnwire/", live.Handler(spawner))
	server := &http.Server{Handler: mux}
	served := make(chan struct{})
	go func() {
		server.Serve(ln) // until Close
		served <- struct{}{}
	}()
	stderr.printf("the processes are at http://%s/debug/spawnwire/", ln.Addr())
	return func() {
		server.Close()
		<-served
	}, nil
}

//go:build unix

package libraries

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"strconv"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

func networkRows() []row {
	return []row{
		httpRow(), http2Row(),
		httpServerRow(), grpcRow(), redisRow(),
	}
}

// serve starts the servers of the rows, and returns environment variables with their
// addresses.
func serve(t *testing.T) []string {
	t.Helper()
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	plain := httptest.NewServer(echo)
	t.Cleanup(plain.Close)
	secure := httptest.NewUnstartedServer(echo)
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	rpc := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(rpc, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- rpc.Serve(l) }()
	t.Cleanup(func() { rpc.Stop(); <-served })

	return []string{
		httpEnv + "=" + plain.URL, tlsEnv + "=" + secure.URL, certEnv + "=" + string(cert),
		grpcEnv + "=" + l.Addr().String(), redisEnv + "=" + miniredis.RunT(t).Addr(),
	}
}

// early is the error of the first use in a child.
var early error

// useEarly has each child use a client in AfterFork. There its goroutines may not have
// read the EOF of the connection yet.
func useEarly(use func() error) {
	forkspawn.AfterFork(func() error {
		early = use()
		return nil
	})
}

// post sends a request and checks the reply. It reports whether it has used an idle
// connection.
func post(client *http.Client, url string) (reused bool, err error) {
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url,
		bytes.NewReader([]byte("hello")))
	if err != nil {
		return false, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && string(b) != "hello" {
		err = fmt.Errorf("another reply: %q", b)
	}
	return reused, err
}

// postTwice leaves an idle connection.
func postTwice(client *http.Client, url string) error {
	if _, err := post(client, url); err != nil {
		return err
	}
	reused, err := post(client, url)
	if err == nil && !reused {
		err = errors.New("no idle connection")
	}
	return err
}

func httpRow() row {
	again := func() error { return testkit.Second(post(http.DefaultClient, os.Getenv(httpEnv))) }
	return row{
		library: "net/http: a client with idle connections", outcome: works, named: "socket:",
		finding: "works: the client connects again",
		warmUp: func() error {
			useEarly(again)
			return postTwice(http.DefaultClient, os.Getenv(httpEnv))
		},
		use: func(context.Context) (string, error) { return "", errors.Join(early, again()) },
	}
}

func http2Row() row {
	var client http.Client
	again := func() error { return testkit.Second(post(&client, os.Getenv(tlsEnv))) }
	warmUp := func() error {
		useEarly(again)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(os.Getenv(certEnv)))
		client.Transport = &http.Transport{ForceAttemptHTTP2: true,
			TLSClientConfig: &tls.Config{RootCAs: roots}}
		return postTwice(&client, os.Getenv(tlsEnv))
	}
	return row{
		library: "net/http: a client with HTTP/2",
		outcome: works + "|.*: write: broken pipe|.*EOF", named: "socket:",
		finding: "connects again; the first requests can fail: 'broken pipe' or 'EOF'",
		warmUp:  warmUp,
		fix: fix{line: "'client.CloseIdleConnections()' at the end of the warm-up",
			warmUp: func() error {
				defer client.CloseIdleConnections()
				return warmUp()
			}},
		use: func(context.Context) (string, error) { return "", errors.Join(early, again()) },
	}
}

// httpServerRow is a server that the warm-up starts.
func httpServerRow() row {
	var address string
	start := func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		address = "http://" + l.Addr().String()
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, os.Getpid())
		}))
		return nil
	}
	return row{
		library: "net/http: a server", outcome: "another process answers",
		finding: "silent: the template answers at its address",
		warmUp:  start,
		fix:     fix{line: "'net.Listen' and 'http.Serve' in 'AfterFork'", afterFork: start},
		use: func(context.Context) (string, error) {
			resp, err := http.Get(address)
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err == nil && string(b) != strconv.Itoa(os.Getpid()) {
				err = errors.New("another process answers")
			}
			return "", err
		},
	}
}

func grpcRow() row {
	var conn *grpc.ClientConn
	dial := func() (err error) {
		conn, err = grpc.NewClient(os.Getenv(grpcEnv),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		return err
	}
	check := func(ctx context.Context) error {
		_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx,
			&grpc_health_v1.HealthCheckRequest{})
		return err
	}
	return row{
		library: "google.golang.org/grpc: a client connection", module: "google.golang.org/grpc",
		outcome: works + "|rpc error: code = Unavailable .*", named: "socket:",
		finding: "connects again; the first calls can fail with 'Unavailable'",
		warmUp: func() error {
			useEarly(func() error { return check(context.Background()) })
			if err := dial(); err != nil {
				return err
			}
			return check(context.Background())
		},
		fix: fix{line: "'grpc.NewClient' again in 'AfterFork'", afterFork: dial},
		use: func(ctx context.Context) (string, error) { return "", errors.Join(early, check(ctx)) },
	}
}

func redisRow() row {
	var client *redis.Client
	get := func() error {
		v, err := client.Get(context.Background(), "key").Result()
		return errors.Join(err, same(v, "value"))
	}
	return row{
		library: "redis/go-redis: a client with a pool", module: "github.com/redis/go-redis/v9",
		outcome: works, named: "socket:",
		finding: "works: the client connects again",
		warmUp: func() error {
			useEarly(get)
			client = redis.NewClient(&redis.Options{Addr: os.Getenv(redisEnv)})
			return client.Set(context.Background(), "key", "value", 0).Err()
		},
		use: func(context.Context) (string, error) { return "", errors.Join(early, get()) },
	}
}

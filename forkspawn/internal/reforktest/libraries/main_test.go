//go:build unix

// Package libraries shows how well-known libraries behave in forked children. Each row
// of its table is a library that a warm-up has used, and that children use again. The
// table is in docs/guides/shared-table.md.
//
// It is a module of its own, so that Spawnwire itself does not need the libraries.
//
//	CGO_ENABLED=0 go test -v ./...          prints the table
//	CGO_ENABLED=0 go test ./... -update     writes it into the guide
package libraries

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

// Outcomes of a row that are no errors.
const (
	works = "works"
	equal = "equal in all children"
)

// Names of environment variables of the template and its children.
const (
	dirEnv   = "LIBRARIES_DIR"   // a directory for the row's files
	fixedEnv = "LIBRARIES_FIXED" // "1" with the row's fix
	httpEnv  = "LIBRARIES_HTTP"  // URL of an HTTP server
	tlsEnv   = "LIBRARIES_TLS"   // URL of a server with TLS and HTTP/2
	certEnv  = "LIBRARIES_CERT"  // its certificate in PEM
	grpcEnv  = "LIBRARIES_GRPC"  // address of a gRPC server
	redisEnv = "LIBRARIES_REDIS" // address of a Redis server
)

// A row is a library and one way to use it.
type row struct {
	library string // as the table shows it
	module  string // for its version; empty for the standard library
	// The warm-up uses the library in the template. An AfterFork line can be added in it.
	warmUp func() error
	// use uses the library in a child. A value that must differ between children is its
	// first result. An error is what the library does wrong there.
	use func(ctx context.Context) (value string, err error)
	// outcome is the expected one without the fix: works, equal, or an expression for the
	// error.
	outcome string
	finding string // what the table says about it; if empty, the outcome
	named   string // what Config.Logger names as closed in the children
	fix     fix
}

// A fix makes a library work in the children. A fix without functions is a different use,
// which asks fixed().
type fix struct {
	line      string       // as the table shows it; empty if there is none
	afterFork func() error // if not nil, for AfterFork
	warmUp    func() error // if not nil, it replaces that of the row
}

// rows are the rows of the table in their order.
var rows = slices.Concat(networkRows(), fileRows(), identityRows(), memoryRows())

// fixed reports whether this process has the row's fix.
func fixed() bool { return os.Getenv(fixedEnv) != "" }

// path returns the path of a file of the row.
func path(name string) string { return os.Getenv(dirEnv) + "/" + name }

// answer is the message of a child.
type answer struct{ Value, Err string }

func TestMain(m *testing.M) {
	for _, r := range rows {
		forkspawn.RegisterWarmUp(r.library, func() error {
			warmUp := r.warmUp
			if fixed() {
				if r.fix.afterFork != nil {
					forkspawn.AfterFork(r.fix.afterFork)
				}
				if r.fix.warmUp != nil {
					warmUp = r.fix.warmUp
				}
			}
			return warmUp()
		})
		forkspawn.Register(r.library, r.answer)
	}
	spawntest.Main(m)
}

// answer is the entry of a child. It uses the library when the parent says so, and sends
// the result.
func (r row) answer(ctx context.Context, p *forkspawn.Parent) error {
	var begin string
	if err := p.Recv(ctx, &begin); err != nil {
		return err
	}
	var a answer
	done := make(chan error, 1)
	go func() {
		v, err := r.use(ctx)
		a.Value = v
		done <- err
	}()
	select {
	case err := <-done:
		if err = errors.Join(err, idle()); err != nil {
			a.Err = err.Error()
		}
		return p.Send(ctx, a)
	case <-time.After(hang):
		return p.Send(ctx, answer{Err: "hangs"})
	}
}

// hang is how long a use may take.
const hang = 50 * time.Second

// idle returns an error if this process spins, although it has nothing to do.
func idle() error {
	const interval, times = 40 * time.Millisecond, 5
	for range times {
		began, err := cpuTime()
		if err != nil {
			return err
		}
		time.Sleep(interval)
		ended, err := cpuTime()
		if err != nil || ended-began < interval*8/10 {
			return err
		}
	}
	return errors.New("spins")
}

func cpuTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

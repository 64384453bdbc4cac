//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tls"
)

// moreRoles are those that other files add.
var moreRoles = map[string]func(context.Context) error{}

// dialTicket connects to the parent, without the library where that is simple.
func dialTicket(ctx context.Context, t handshake.Ticket) (net.Conn, error) {
	if t.Addr.Scheme == transport.SchemeTLS {
		return tls.Transport{}.Dial(ctx, t.Addr)
	}
	return new(net.Dialer).DialContext(ctx, t.Addr.Network(), t.Addr.Target)
}

// playRole is a child that is a program of its own, well or badly behaved. It does not return.
func playRole(role string) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "role", role+":", err)
			os.Exit(1)
		}
	}
	dial := func() (net.Conn, handshake.Ticket) {
		t, ok, err := handshake.TakeTicket()
		if !ok {
			err = errors.New("no ticket")
		}
		check(err)
		conn, err := dialTicket(ctx, t)
		check(err)
		return conn, t
	}
	switch role {
	case "exit3":
		fmt.Fprintln(os.Stderr, "first line")
		fmt.Fprintln(os.Stderr, "cannot open the moon")
		os.Exit(3)
	case "join":
		p, err := forkspawn.Join(ctx)
		check(err)
		check(echo(p.Context(), p))
		check(p.Close(0, ""))
	case "prepare":
		_, err := forkspawn.JoinWith(ctx, forkspawn.JoinConfig{Prepare: func(*spawnspec.Spec) error {
			return errors.New("port 80 is taken")
		}})
		check(err)
	case "silent": // connects and says nothing
		dial()
		time.Sleep(bound)
	case "mute": // does not even connect
		time.Sleep(bound)
	case "grandchild": // leaves somebody who holds its output open
		cmd := exec.Command("sleep", "60")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		check(cmd.Start())
		fmt.Fprintln(os.Stderr, "leaving", cmd.Process.Pid)
		os.Exit(3)
	case "suicide":
		p, _ := os.FindProcess(os.Getpid())
		p.Kill()
		time.Sleep(bound)
	case "future": // speaks a version that is not there yet
		conn, t := dial()
		_, err := handshake.Join(ctx, conn, t, handshake.JoinConfig{Versions: handshake.Range{Min: 7, Max: 9}})
		check(err)
	case "impostor": // does not know the secret
		conn, t := dial()
		t.Secret = handshake.NewSecret()
		_, err := handshake.Join(ctx, conn, t, handshake.JoinConfig{})
		check(err)
	case "garbled": // says a hello that is none
		conn, _ := dial()
		ch := transport.New(conn, transport.Config{})
		check(ch.WriteFrames(ctx, transport.Frame{Kind: transport.KindHello, Body: []byte{0x82, 0x40, 0x40}}))
		_, err := ch.ReadFrame(ctx)
		check(err)
		os.Exit(1)
	case "die-welcomed": // dies when it has its spec
		conn, t := dial()
		_, err := handshake.Join(ctx, conn, t, handshake.JoinConfig{})
		check(err)
		os.Exit(7)
	case "die-ready": // dies the moment it has said ready
		conn, t := dial()
		j, err := handshake.Join(ctx, conn, t, handshake.JoinConfig{})
		check(err)
		check(j.Ready(ctx, handshake.Timings{}))
		os.Exit(9)
	case "die-about-ready": // about when it says ready, before or after
		conn, t := dial()
		j, err := handshake.Join(ctx, conn, t, handshake.JoinConfig{})
		check(err)
		dieAbout(os.Args[1], os.Args[2], func() { j.Ready(ctx, handshake.Timings{}) })
	case "cut-ready": // says ready, closes its channel and lives
		conn, t := dial()
		j, err := handshake.Join(ctx, conn, t, handshake.JoinConfig{})
		check(err)
		check(j.Ready(ctx, handshake.Timings{}))
		conn.Close()
		time.Sleep(bound)
	case "heedless": // goes on when its parent is gone
		_, err := forkspawn.JoinWith(ctx, forkspawn.JoinConfig{OnParentGone: func() {}})
		check(err)
		time.Sleep(bound)
	case "no-init": // a program that forgot Init
		_, err := forkspawn.New(forkspawn.Config{})
		if errors.Is(err, forkspawn.ErrInitNotCalled) {
			os.Exit(42)
		}
		check(err)
	default:
		play, ok := moreRoles[role]
		if !ok {
			check(errors.New("no such role"))
		}
		check(play(ctx))
	}
	os.Exit(0)
}

// Package oci starts children in containers, with the command line of podman, docker,
// runc or crun.
//
//	box := &oci.Launcher{Image: "debian:12", Options: []string{"--memory=512m"}}
//	inside := forkspawn.WithCommand(forkspawn.Command{Launcher: box})
//	child, err := spawner.Spawn(ctx, spec, inside)
//
// Each child has a container of its own. The image needs nothing installed: the engine
// mounts the binary of this program into the container, read-only. The container needs
// no network and no open port, because all connections of the child go through the
// engine's stdin and stdout.
//
// The program in the container calls forkspawn.Init or Join first thing in main, like
// every child. It then supervises the child: it passes signals on, and it ends when the
// connection to this process ends, and the container with it. The ticket with its secret
// goes through the connection too, and is never an argument, in the environment or
// metadata of the container, or in a file.
package oci

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/launch/internal/session"
)

// Launcher starts children in containers. It implements forkspawn.Launcher. A Launcher
// must not be changed after its first use, and its methods may be called concurrently.
//
// Either Image or Bundle must be set.
type Launcher struct {
	// Engine is podman or docker for an Image, and runc or crun for a Bundle. "" is the
	// first of the two that PATH has.
	Engine string
	// Command is the engine's command and its first arguments. Nil is the name of
	// the engine. It is for global options, as in {"podman", "--remote"}.
	Command []string
	// Image is the image as the engine takes it. The engine pulls it if it must.
	Image string
	// Bundle is the directory of a bundle of the OCI runtime specification: config.json
	// and a root file system. "runc spec" makes the former. The launcher uses a copy of
	// it, in which it replaces the arguments.
	Bundle string
	// Options are more options for the run command of the engine: "--memory=512m" or
	// "--network=none", for example. A later option wins over those of the launcher.
	Options []string
	// Program is the binary of this program that is mounted into the container, for
	// Linux and the image's processor. "" is the file of this process, which must be
	// built with CGO_ENABLED=0 unless the image has the libraries.
	Program string
}

var _ forkspawn.Launcher = (*Launcher)(nil)

// Launch implements forkspawn.Launcher. Its error is an [*Error] if the engine has
// reported it, and an [*fs.PathError] if there is no engine, program or bundle.
func (o *Launcher) Launch(ctx context.Context, l *forkspawn.Launch) (forkspawn.Launched, error) {
	b, err := o.newBox()
	if err != nil {
		return nil, fmt.Errorf("oci: %w", err)
	}
	if err := b.start(ctx, l); err != nil {
		return nil, err
	}
	return session.Start(ctx, l, b, session.Patient)
}

// box is a container. It implements session.Engine.
type box struct {
	*session.Client
	engine  string   // the name of the engine
	command []string // its command
	from    string   // the image or the bundle
	name    string   // of the container
	nonce   string
	run     []string // the arguments to run it
	remove  []string // the arguments to remove it
	lost    bool     // it may be there although the engine's program has ended
	copied  string   // the directory of the bundle's copy, or ""
}

// newBox checks the fields and returns a container that is not started.
func (o *Launcher) newBox() (*box, error) {
	field := func(name, value, reason string) error {
		return fmt.Errorf("field %s: %q %s", name, value, reason)
	}
	engines := imageEngines
	switch {
	case (o.Image == "") == (o.Bundle == ""):
		return nil, errors.New("field Image: want either an Image or a Bundle")
	case strings.HasPrefix(o.Image, "-"):
		return nil, field("Image", o.Image, "is not an image")
	case o.Bundle != "":
		engines = bundleEngines
	}
	b := &box{engine: o.Engine, command: o.Command, from: o.Image + o.Bundle,
		nonce: rand.Text()}
	b.name = "spawnwire-" + strings.ToLower(b.nonce)
	if b.engine == "" {
		if b.engine = firstOf(engines); b.engine == "" {
			return nil, &os.PathError{Op: "exec", Path: strings.Join(engines, " or "),
				Err: os.ErrNotExist}
		}
	} else if !slices.Contains(engines, b.engine) {
		return nil, field("Engine", b.engine, "is not "+strings.Join(engines, " or "))
	}
	if len(b.command) == 0 {
		b.command = []string{b.engine}
	}
	program, err := o.program()
	if err != nil {
		return nil, err
	}
	if o.Bundle != "" {
		err = b.prepareBundle(o, program)
	} else {
		b.prepareImage(o, program)
	}
	return b, err
}

var (
	imageEngines  = []string{"podman", "docker"}
	bundleEngines = []string{"runc", "crun"}
)

// firstOf returns the first of some programs that PATH has, or "".
func firstOf(programs []string) string {
	for _, name := range programs {
		if _, err := exec.LookPath(name); err == nil {
			return name
		}
	}
	return ""
}

// program returns the absolute path of the binary to mount.
func (o *Launcher) program() (string, error) {
	path, err := session.Program(o.Program)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	if strings.ContainsAny(path, ",\"\n") {
		return "", fmt.Errorf("field Program: %q has a comma, a quote or a line end", path)
	}
	there, err := os.Stat(path)
	if err != nil || o.Program != "" {
		return path, err
	}
	if self, err := os.Stat("/proc/self/exe"); err == nil && !os.SameFile(self, there) {
		return "", &os.PathError{Op: "mount", Path: path,
			Err: errors.New("the file was replaced since this process has started")}
	}
	return path, nil
}

// inside is the path of the program in the container. /dev is a file system of the
// container, so the root file system needs no such file and may be read-only.
const inside = "/dev/spawnwire"

// prepareImage makes the arguments that run an image.
func (b *box) prepareImage(o *Launcher, program string) {
	b.run = append([]string{"run", "--rm", "--interactive", "--name", b.name,
		// Logs of the container would have all messages of the child.
		"--log-driver=none",
		// podman waits as long before it uses force.
		"--stop-timeout=1", "--env", session.Order(b.nonce), "--entrypoint", inside,
		"--mount", "type=bind,readonly,source=" + program + ",target=" + inside}, o.Options...)
	b.run = append(b.run, b.from)
	b.remove = []string{"rm", "--force", b.name}
}

// interruptBound is how long an interrupted start may go on. An engine that is killed
// before its container runs can leave it behind.
const interruptBound = 3 * time.Second

// start starts the engine and waits for the supervisor. After an error nothing is left.
func (b *box) start(ctx context.Context, l *forkspawn.Launch) (err error) {
	// There is no parent-death signal: the engine removes the container at the end of
	// its stdin.
	b.Client, err = session.StartClient(l, slices.Concat(b.command, b.run), b.nonce,
		forkspawn.StartProcess)
	if err != nil {
		b.removeCopy()
		return fmt.Errorf("oci: %w", err)
	}
	_, b.lost, err = b.AwaitReady(ctx, func() { b.Interrupt(interruptBound, syscall.SIGTERM) })
	b.removeCopy() // the engine has read it
	if err == nil {
		return nil
	}
	if !b.lost {
		err = b.failed(err)
	}
	b.End()
	return err
}

// Lost returns the error of a container that has ended before the child.
func (b *box) Lost(cause error) error {
	b.lost = true
	return b.error(b.WhyLost(b.engine, ErrLost, cause))
}

const (
	// endBound is how long the engine may take to end after its stdin has.
	endBound = 10 * time.Second
	// removeBound bounds the removal of a container by its name.
	removeBound = 30 * time.Second
)

// End ends the container. If the engine's program has not ended in order, End removes
// the container by its name.
func (b *box) End() {
	status := b.Client.End(endBound)
	b.removeCopy()
	if status.Signal() == 0 && !b.lost {
		return
	}
	args := slices.Concat(b.command[1:], b.remove)
	p, err := forkspawn.StartProcess(forkspawn.ProcessAttr{
		// As the engine itself, it is out of reach of this process's terminal and group.
		Command:  forkspawn.Command{Path: b.command[0], Args: args, NewSession: true},
		OwnGroup: true,
	})
	if err != nil {
		return
	}
	defer time.AfterFunc(removeBound, func() { p.SignalGroup(syscall.SIGKILL) }).Stop()
	p.Wait() // it fails if there is no such container
}

// removeCopy removes the bundle's copy.
func (b *box) removeCopy() {
	if b.copied != "" {
		os.RemoveAll(b.copied)
		b.copied = ""
	}
}

// Record runs a shell command in a terminal and writes the screen as an animated
// SVG. It made docs/plots/treehash.svg (Linux, in the root of the
// repository):
//
//	go build -o /tmp/treehash ./examples/treehash
//	PATH=/tmp:$PATH go run ./examples/treehash/record \
//		'treehash -crash-after 200 /usr/local/go/src | tail -n 2' >docs/plots/treehash.svg
package main

import (
	"io"
	"log"
	"os"
	"os/exec"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: record COMMAND")
	}
	frames, err := record(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	if err := writeSVG(os.Stdout, frames); err != nil {
		log.Fatal(err)
	}
}

// A frame is the text of the screen from a moment on.
type frame struct {
	at    time.Duration
	lines []string
}

const (
	typing = 40 * time.Millisecond // for each character of the command
	pause  = 500 * time.Millisecond
)

// record types the command and runs it. script(1) makes the terminal.
func record(command string) ([]frame, error) {
	s := &screen{columns: 100}
	var frames []frame
	var at time.Duration
	show := func() { frames = append(frames, frame{at, s.text()}) }

	s.write("$ ")
	show()
	at += pause
	for _, c := range command {
		s.write(string(c))
		show()
		at += typing
	}
	at += pause
	s.write("\n")
	show()

	cmd := exec.Command("script", "-qec", command, "/dev/null")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	began, ran := time.Now(), at
	buf := make([]byte, 64<<10)
	for {
		n, err := stdout.Read(buf)
		at = ran + time.Since(began)
		s.write(string(buf[:n]))
		show()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if err := cmd.Wait(); err != nil {
		return nil, err
	}
	s.write("$ ")
	show()
	return frames, nil
}

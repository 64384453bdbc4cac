package forkspawn_test

import (
	"encoding/binary"
	"net"

	"github.com/spawnwire/spawnwire/internal/frame"
)

// headerSize is the size of a frame's length and kind.
const headerSize = 5

// faultConn is a child's connection. It parses the frames, and calls reached.
type faultConn struct {
	net.Conn
	f      *faulty
	header []byte // of the frame being read
	stage  stage  // of reading it
	left   int    // bytes until the end of the stage
}

type stage int

const (
	inHead stage = iota
	inFirstHalf
	inSecondHalf
)

func (f *faulty) wrap(conn net.Conn) *faultConn {
	return &faultConn{Conn: conn, f: f, left: headerSize}
}

// Write writes one whole frame: a channel writes small frames so.
func (c *faultConn) Write(p []byte) (int, error) {
	var mid, after point
	switch frame.Kind(p[headerSize-1]) {
	case frame.KindHello:
		mid, after = midHello, afterHello
	case frame.KindReady:
		mid, after = midReady, atReady
	case frame.KindAttach:
		mid = midAttach
	}
	half := 0
	if mid != "" && c.f.at == mid {
		half = len(p) / 2
		if n, err := c.Conn.Write(p[:half]); err != nil {
			return n, err
		}
		c.f.reached(mid)
	}
	n, err := c.Conn.Write(p[half:])
	if err == nil {
		c.f.reached(after)
	}
	return half + n, err
}

// Read reads at most to the end of a header, the middle of a body, or its end,
// whichever is next.
func (c *faultConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	if c.stage == inHead {
		c.header = append(c.header, p[:n]...)
	}
	for c.left -= n; c.left == 0; {
		c.next()
	}
	return n, err
}

func (c *faultConn) next() {
	body := int(binary.LittleEndian.Uint32(c.header)) - 1
	kind := frame.Kind(c.header[headerSize-1])
	switch c.stage {
	case inHead:
		c.stage, c.left = inFirstHalf, body/2
	case inFirstHalf:
		c.stage, c.left = inSecondHalf, body-body/2
		switch kind {
		case frame.KindWelcome:
			c.f.reached(midWelcome)
		case frame.KindSpec:
			c.f.reached(midSpec)
		}
	case inSecondHalf:
		c.header, c.stage, c.left = c.header[:0], inHead, headerSize
		if kind == frame.KindWelcome {
			c.f.reached(afterWelcome)
		}
	}
}

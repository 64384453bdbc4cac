package handshake

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/examples/peers"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

var (
	differentialRuns = flag.Int("differential", 0,
		"inputs of each kind for the differential test; 0 is 2000, or 20000 with SPAWNWIRE_LONG=1")
	differentialSeed = flag.Uint64("seed", 1, "the seed of the differential test; 0 takes the time")
)

// inputKinds has the kinds of inputs. judge.py has the letters, too.
var inputKinds = map[string]byte{
	"spec": 'S', "hello": 'h', "welcome": 'w', "greet": 'g', "failed": 'f', "ready": 'r',
	"cancel": 'c', "goodbye": 'b', "attach": 'a', "address": 'A', "ticket": 'T', "stream": 'F',
	"meeting": 'G', "sealed": 'U', "proof": 'P',
}

// The test gives random inputs to the readers in Go, Python and Node.js and compares
// the results. Only leftOpen allows a difference. This finds rare differences:
//
//	SPAWNWIRE_PEERS=required go test ./handshake -run Differential -v -differential 100000 -seed 0
func TestDifferential_ReadersAgree(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths are those of Unix")
	}
	runs := *differentialRuns
	if runs == 0 {
		runs = 2000
		if os.Getenv("SPAWNWIRE_LONG") == "1" {
			runs = 20_000
		}
	}
	seed := *differentialSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for name, start := range map[string]func(t *testing.T) *judge{
		"python": startPython, "node": startNode,
	} {
		t.Run(name, func(t *testing.T) {
			other := start(t)
			for _, kind := range slices.Sorted(maps.Keys(inputKinds)) {
				t.Run(kind, func(t *testing.T) { compare(t, other, inputKinds[kind], runs, seed) })
			}
		})
	}
}

func compare(t *testing.T, other *judge, kind byte, runs int, seed uint64) {
	g := newGenerator(seed + uint64(kind))
	const batch = 500
	taken, differences := 0, 0
	for range (runs + batch - 1) / batch {
		inputs := make([][]byte, batch)
		for i := range inputs {
			inputs[i] = g.input(kind)
		}
		answers := other.ask(t, kind, inputs)
		for i, input := range inputs {
			ours := judgeInGo(kind, input)
			if !slices.ContainsFunc([]string{"-", "error", "bad-mac", codeRefused, codeVersion},
				func(refusal string) bool { return strings.HasSuffix(ours, refusal) }) {
				taken++
			}
			if ours != answers[i] && !leftOpen(kind, input, ours) {
				differences++
				t.Errorf("seed %d: %.2000x %.1000q\nGo:    %.1000s\nother: %.1000s",
					seed, input, input, ours, answers[i])
				if differences == 5 {
					t.FailNow()
				}
			}
		}
	}
	t.Logf("seed %d: %d inputs, %d of them taken", seed, runs, taken)
	require.Greater(t, taken, runs/20, "too few inputs are valid")
	require.Less(t, taken, runs*19/20, "too many inputs are valid")
}

// leftOpen reports whether the document leaves the result to the receiver. That is so
// for frames of kind call, because only some programs know them. A child need not refuse
// each bad spec, because its own parent has sent it.
func leftOpen(kind byte, input []byte, ours string) bool {
	if kind != 'F' {
		return kind == 'S' && ours == "-"
	}
	for rest := input[4:]; len(rest) > 4; {
		if frame.Kind(rest[4]) == frame.KindCall {
			return true
		}
		rest = rest[min(uint64(len(rest)), 4+uint64(binary.LittleEndian.Uint32(rest))):]
	}
	return false
}

// judge is a reader in another language.
type judge struct {
	in  io.Writer
	out *bufio.Reader
}

func startPython(t *testing.T) *judge {
	path, err := peers.Python(t.Context(), "")
	return startJudge(t, err, path, "-B", "python/judge.py")
}

func startNode(t *testing.T) *judge {
	path, err := peers.Node(t.Context(), "../examples/peers/node", "")
	return startJudge(t, err, path, "node/judge.mjs")
}

func startJudge(t *testing.T, missing error, path string, args ...string) *judge {
	t.Helper()
	if missing != nil && os.Getenv("SPAWNWIRE_PEERS") != "required" {
		t.Skipf("%v\n(with SPAWNWIRE_PEERS=required this is a failure)", missing)
	}
	require.NoError(t, missing)
	last := len(args) - 1
	args[last] = filepath.Join("..", "examples", "peers", args[last])
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute) // finds a hang
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
		cancel()
	})
	return &judge{in, bufio.NewReaderSize(out, 1<<20)}
}

// ask returns a line for each input.
func (j *judge) ask(t *testing.T, kind byte, inputs [][]byte) []string {
	t.Helper()
	var all bytes.Buffer
	for _, input := range inputs {
		all.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(input))))
		all.WriteByte(kind)
		all.Write(input)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := j.in.Write(all.Bytes())
		sent <- err
	}()
	answers := make([]string, len(inputs))
	for i := range answers {
		line, err := j.out.ReadString('\n')
		require.NoError(t, err)
		answers[i] = strings.TrimSuffix(line, "\n")
	}
	require.NoError(t, <-sent)
	return answers
}

// judgeInGo returns the result of the Go reader in the form of judge.py.
func judgeInGo(kind byte, input []byte) string {
	var err error
	var fields map[string]any
	switch kind {
	case 'A':
		return judgeAddress(transport.ParseAddr(string(input)))
	case 'T':
		ticket, err := ParseTicket(string(input))
		if err != nil {
			return "-"
		}
		return show(ticket.ID) + " " + show(ticket.secret()) + " " + judgeAddress(ticket.Addr, nil)
	case 'F':
		return judgeStream(input)
	case 'G':
		return judgeMeeting(input)
	case 'P':
		proof, err := decodeProof(input)
		if err != nil {
			return "-"
		}
		return show(proof)
	case 'U':
		return judgeSealed(input)
	case 'S':
		fields, err = judgeSpec(input)
	default:
		fields, err = judgeMessage(kind, input)
	}
	if err != nil {
		return "-"
	}
	var all []string
	for name, value := range fields {
		if s := show(value); !slices.Contains([]string{"0", "t", "b", "[]", ""}, s) {
			all = append(all, name+"="+s)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ";")
}

func show(value any) string {
	switch v := value.(type) {
	case string:
		return "t" + hex.EncodeToString([]byte(v))
	case []byte:
		return "b" + hex.EncodeToString(v)
	case []string:
		var all []string
		for _, s := range v {
			all = append(all, show(s))
		}
		return "[" + strings.Join(all, ",") + "]"
	case versionRange:
		return fmt.Sprintf("[%d,%d]", v[0], v[1])
	}
	return fmt.Sprint(value)
}

func judgeSpec(input []byte) (map[string]any, error) {
	s, err := spawnspec.Unmarshal(input)
	if err != nil {
		return nil, err
	}
	args, _ := s.Args.(cbor.RawMessage)
	return map[string]any{"v": 1, "entry": s.Entry, "args": []byte(args)}, nil
}

func (s *self) fields(more map[string]any) map[string]any {
	more["id"], more["name"], more["pid"] = s.ID, s.Name, s.PID
	more["nonce"], more["features"] = s.nonce, s.features
	return more
}

func judgeMessage(kind byte, input []byte) (map[string]any, error) {
	switch kind {
	case 'h':
		h, err := decodeHello(input)
		return h.fields(map[string]any{"versions": h.versions}), err
	case 'w':
		var w welcome
		if err := decode(frame.KindWelcome, input, &w); err != nil {
			return nil, err
		}
		return w.fields(map[string]any{"version": w.version, "limit": w.limit}),
			w.self.check(frame.KindWelcome)
	case 'g':
		g, err := decodeGreet(input)
		return g.fields(map[string]any{"versions": g.versions, "auth": g.auth}), err
	case 'a':
		a, err := decodeAttach(input)
		return map[string]any{"id": a.id, "nonce": a.nonce}, err
	case 'f':
		var f failed
		if err := failedError(input, versionRange{1, 1}, PhaseSpec); errors.Is(err,
			transport.ErrProtocol) {
			return nil, err
		}
		err := decode(frame.KindFailed, input, &f)
		fields := map[string]any{"phase": string(f.phase), "code": f.code, "error": f.text}
		if f.versions != nil {
			fields["versions"] = *f.versions
		}
		return fields, err
	case 'r':
		var r ready
		err := decode(frame.KindReady, input, &r)
		t := r.timings
		return map[string]any{"init": t.Init, "main": t.Main, "connected": t.Connected,
			"accepted": t.Accepted}, err
	case 'c':
		c, err := frame.ParseCancel(input)
		return map[string]any{"reason": c.Reason, "grace": int64(c.Grace)}, err
	}
	b, err := frame.ParseGoodbye(input)
	return map[string]any{"status": b.Status, "reason": b.Reason}, err
}

func judgeAddress(a transport.Addr, err error) string {
	if err != nil {
		return "-"
	}
	pin := ""
	if a.IsPinned() {
		pin = hex.EncodeToString(a.Pin[:])
	}
	if name, abstract := strings.CutPrefix(a.Target, "@"); abstract && a.Scheme == "uds" {
		return "uds " + show("\x00"+name) + " "
	}
	if a.Scheme == "uds" {
		return "uds " + show(a.Target) + " "
	}
	host, port, _ := net.SplitHostPort(a.Target)
	return a.Scheme + " " + show(host) + " " + port + " " + pin
}

func judgeSealed(input []byte) string {
	s, err := open(frame.KindHello, input)
	if err != nil {
		return "-"
	}
	if s.verify(make([]byte, 32), labelHello) != nil {
		return "bad-mac"
	}
	return show(s.payload)
}

func judgeStream(input []byte) (found string) {
	ch := transport.New(&canned{r: bytes.NewReader(input[4:])},
		transport.Config{MaxFrameSize: int(binary.LittleEndian.Uint32(input))})
	defer ch.Abort()
	for {
		f, err := ch.Frames(access.Key{}).Read(context.Background())
		switch {
		case errors.Is(err, transport.ErrPeerGone):
			return found + "gone"
		case err != nil:
			return found + "error"
		}
		found += fmt.Sprintf("%02x%x ", byte(f.Kind), f.Body)
	}
}

// judgeMeeting returns the answer of an acceptor to the greet: "proof", or the code of
// its failed frame.
func judgeMeeting(input []byte) string {
	conn := &canned{r: bytes.NewReader(frameBytes(frame.KindGreet, input)),
		answered: make(chan struct{})}
	_, err := AcceptPeer(context.Background(), conn,
		PeerConfig{Identity: Identity{ID: "right", Name: "x", PID: 1}, Key: vectorKey})
	said := conn.w.Bytes()
	if code := failedCode(said); code != "" {
		return code
	}
	for len(said) > 0 {
		if frame.Kind(said[4]) == frame.KindProof {
			return "proof"
		}
		said = said[4+binary.LittleEndian.Uint32(said):]
	}
	return fmt.Sprint("none: ", err)
}

// canned is a connection with an input that ends.
type canned struct {
	net.Conn
	r        *bytes.Reader
	w        bytes.Buffer
	writes   int
	answered chan struct{} // if not nil, the input ends only after a second write
}

func (c *canned) Read(p []byte) (int, error) {
	if c.r.Len() == 0 && c.answered != nil {
		<-c.answered
	}
	return c.r.Read(p)
}

func (c *canned) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if c.writes++; c.writes == 2 && c.answered != nil {
		close(c.answered)
	}
	return n, err
}

func (c *canned) Close() error                     { return nil }
func (c *canned) SetReadDeadline(time.Time) error  { return nil }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }
func (c *canned) SetDeadline(time.Time) error      { return nil }
func (c *canned) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (c *canned) RemoteAddr() net.Addr             { return &net.UnixAddr{} }

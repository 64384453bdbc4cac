//go:build amd64 || arm64

package template

import (
	"bytes"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/internal/unixsock"
)

// becomeChild runs right after the fork. It gives the process the state of an
// executed child at its start.
func (s *server) becomeChild() (*Child, error) {
	c := &Child{Init: monotime.Now(), Complete: s.completeChild}
	r, env, err := decodeRequest(s.request[4:])
	if err == nil && s.nFiles != r.files() {
		err = errMessage
	}
	if err != nil {
		return nil, err
	}
	// These numbers are dead in the child, and no Go object owns them.
	for _, fd := range s.files[:3] {
		if fd > 2 {
			rawClose(fd)
		}
	}
	if r.ownGroup {
		syscall.Setpgid(0, 0) // the parent does so too, and the first of the two has the effect
	}
	if r.deathSignal != 0 {
		unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(r.deathSignal), 0, 0, 0)
		if os.Getppid() != s.parent { // the parent died before
			syscall.Kill(os.Getpid(), r.deathSignal)
		}
	}
	osproc.NameProcess()
	err = syscall.Fchdir(s.files[3])
	rawClose(s.files[3])
	runtime.UnlockOSThread()
	if err != nil {
		return nil, os.NewSyscallError("fchdir", err)
	}
	before := lookupStartVariables()
	s.setEnviron(env)
	if err := s.applyStartVariables(before); err != nil {
		return nil, err
	}
	c.Ticket, err = handshake.ParseTicket(string(r.ticket))
	clear(s.request)
	if err != nil {
		return nil, err
	}
	if r.connected {
		if r.given {
			if err := receiveFiles(s.files[forkFiles+1]); err != nil {
				return nil, err
			}
		}
		c.Pair = Pair{connector(s.files[forkFiles]), connector(s.files[forkFiles+1])}
	}
	return c, nil
}

// receiveFiles receives the files of a command, and sets their numbers in the
// environment.
func receiveFiles(control int) error {
	entries := strings.Split(os.Getenv(FilesEnv), ",")
	oob := make([]byte, unix.CmsgSpace(4*len(entries)))
	_, n, _, _, err := unix.Recvmsg(control, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("recvmsg", err)
	}
	fds := unixsock.Rights(oob[:n])
	if len(fds) != len(entries) {
		return osproc.ExplainScarcity(os.NewSyscallError("recvmsg", syscall.EMFILE))
	}
	for i, entry := range entries {
		name, _, _ := strings.Cut(entry, "=")
		entries[i] = name + "=" + strconv.Itoa(fds[i])
	}
	return os.Setenv(FilesEnv, strings.Join(entries, ","))
}

func (s *server) completeChild() {
	s.forker.EndAlone()
	s.restore()
	s.conn.Close() // dead in the child
}

// setEnviron sets the environment of the request. Usually the template had the
// same, apart from one or two variables.
func (s *server) setEnviron(env environ) {
	alike := env.len() == len(s.environ)
	for i, entry := range env.all {
		key := bytes.IndexByte(entry, '=') + 1
		alike = alike && key > 1 && len(s.environ[i]) >= key &&
			s.environ[i][:key] == string(entry[:key])
	}
	if !alike {
		os.Clearenv()
	}
	for i, entry := range env.all {
		if alike && s.environ[i] == string(entry) {
			continue
		}
		if key, value, ok := strings.Cut(string(entry), "="); ok && key != "" {
			os.Setenv(key, value)
		}
	}
}

// connector returns a function that makes a connection of a socket. The
// function can be called again after an error only.
func connector(fd int) func() (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "socketpair")
	return func() (net.Conn, error) {
		conn, err := net.FileConn(file) // with a descriptor of its own
		if err != nil {
			return nil, osproc.ExplainScarcity(err)
		}
		file.Close()
		return conn, nil
	}
}

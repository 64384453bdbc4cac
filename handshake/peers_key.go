package handshake

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// KeyFile returns the shared key in a file, for [PeerConfig].Key. If there is no
// file, KeyFile makes one with a new random key. Several programs may do so at once:
// all get the same key.
//
// The file must be a regular file of this user or of root that nobody else can read
// or write. Otherwise the error matches [ErrKeyFile], and so does that of a file
// with less than 16 bytes. White space at the end of the file is not part of the
// key. On Windows the permissions are not checked.
func KeyFile(path string) ([]byte, error) {
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := makeKey(path); err != nil {
		return nil, fmt.Errorf("handshake: key file: %w", err)
	}
	return readKey(path)
}

// ErrKeyFile is the cause when a key file is not secret, or has no key.
var ErrKeyFile = errors.New("unsuitable key file")

func readKey(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO does not block
	if err != nil {
		return nil, fmt.Errorf("handshake: key file: %w", err)
	}
	defer f.Close()
	unsuitable := func(format string, args ...any) ([]byte, error) {
		reason := fmt.Sprintf(format, args...)
		return nil, fmt.Errorf("handshake: %w %s: %s", ErrKeyFile, path, reason)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("handshake: key file: %w", err)
	}
	owner, known := ownerOf(info)
	switch {
	case !info.Mode().IsRegular():
		return unsuitable("it is no regular file")
	case known && owner != 0 && owner != os.Geteuid():
		return unsuitable("it belongs to user %d", owner)
	case known && info.Mode().Perm()&0o077 != 0:
		return unsuitable("others may use it (mode %04o); want 0600", info.Mode().Perm())
	case info.Size() > maxKey:
		return unsuitable("%d bytes; at most %d", info.Size(), maxKey)
	}
	key, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("handshake: key file: %w", err)
	}
	if key = bytes.TrimRight(key, " \t\r\n"); len(key) < minKey {
		return unsuitable("%d bytes; want at least %d", len(key), minKey)
	}
	return key, nil
}

// maxKey is the largest key file, in bytes.
const maxKey = 4 << 10

// makeKey makes the file with a new key, unless another program is faster.
func makeKey(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	random := make([]byte, 32)
	rand.Read(random)
	_, err = fmt.Fprintln(f, hex.EncodeToString(random))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// The link exists at once with its whole content, and replaces no other file.
	if err := os.Link(f.Name(), path); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

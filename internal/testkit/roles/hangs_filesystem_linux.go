package roles

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func init() { Programs["hangs-filesystem"] = hangsFileSystem }

// hangsFileSystem mounts a file system without answers on the directory of its
// argument, and prints "mounted" or a reason. It ends with its stdin, or after
// three minutes. A process in a lookup there cannot be killed before, not even
// the test.
func hangsFileSystem(context.Context) error {
	dir := os.Args[1]
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		fmt.Println("no FUSE here:", err)
		return nil
	}
	options := fmt.Sprintf("fd=%d,rootmode=40755,user_id=0,group_id=0,allow_other", fd)
	if err := unix.Mount("hung", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		fmt.Println("cannot mount a FUSE file system:", err)
		return nil
	}
	go func() {
		time.Sleep(3 * time.Minute)
		unix.Unmount(dir, unix.MNT_DETACH)
		os.Exit(1) // closes fd, which ends the requests
	}()
	go serveHung(fd)
	fmt.Println("mounted")
	io.Copy(io.Discard, os.Stdin)
	unix.Unmount(dir, unix.MNT_DETACH)
	return nil
}

// serveHung answers FUSE_INIT (fuse(4)), and reads all later requests without an
// answer.
func serveHung(fd int) {
	const opInit = 26
	request := make([]byte, 1<<17)
	for {
		n, err := unix.Read(fd, request)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		if binary.NativeEndian.Uint32(request[4:]) != opInit {
			continue
		}
		reply := make([]byte, 16+64)
		binary.NativeEndian.PutUint32(reply, uint32(len(reply)))
		copy(reply[8:16], request[8:16])                 // the request's number
		binary.NativeEndian.PutUint32(reply[16:], 7)     // major version
		binary.NativeEndian.PutUint32(reply[20:], 31)    // minor version
		binary.NativeEndian.PutUint32(reply[24:], 65536) // max_readahead
		binary.NativeEndian.PutUint32(reply[36:], 65536) // max_write
		unix.Write(fd, reply)
	}
}

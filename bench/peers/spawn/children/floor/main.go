// Command floor is the least that a child can do to be ready: it connects, says when its main began, and ends.
package main

import (
	"encoding/binary"
	"net"
	"os"
	"time"
)

func main() {
	began := time.Now().UnixNano()
	conn, err := net.Dial("unix", os.Args[1])
	if err == nil {
		_, err = conn.Write(binary.LittleEndian.AppendUint64(nil, uint64(began)))
	}
	if err != nil {
		println("floor:", err.Error())
		os.Exit(1)
	}
}

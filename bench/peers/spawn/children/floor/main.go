// Floor is a child that does only the minimum: it connects, sends the start time of
// its main, and exits.
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

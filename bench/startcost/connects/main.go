// Connects is the smallest program with the code to connect to a parent. It exits
// without connecting.
package main

import (
	"net"
	"os"
)

func main() {
	if len(os.Args) > 1 { // never true, but the linker keeps the code
		_, _ = net.Dial("unix", os.Args[1])
	}
}

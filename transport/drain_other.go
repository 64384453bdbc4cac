//go:build !unix

package transport

import "net"

func drain(net.Conn) {}

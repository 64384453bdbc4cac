//go:build !unix

package transport

import (
	"context"
	"net"
)

func drain(context.Context, *net.TCPConn) {}

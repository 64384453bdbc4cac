//go:build tls

package main

import _ "github.com/spawnwire/spawnwire/transport/tls"

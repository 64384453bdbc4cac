//go:build amd64 || arm64

package refork

import "sync/atomic"

// On these platforms the compiler makes instructions of the functions of sync/atomic,
// not calls, so frozen code can use them. They are ordered among each other, like the
// handler's instructions. A load of a stored value also sees all earlier stores.

func load(p *uint32) uint32 { return atomic.LoadUint32(p) }

func store(p *uint32, v uint32) { atomic.StoreUint32(p, v) }

func add(p *uint32) { atomic.AddUint32(p, 1) }

package refork

import "sync/atomic"

// On this platform the functions of sync/atomic are compiled to instructions,
// not calls, so frozen code can use them.

func load(p *uint32) uint32 { return atomic.LoadUint32(p) }

func store(p *uint32, v uint32) { atomic.StoreUint32(p, v) }

func add(p *uint32) { atomic.AddUint32(p, 1) }

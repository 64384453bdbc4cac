package refork

import "sync/atomic"

// Package sync/atomic's functions are instructions of the CPU here, and no calls.

func load(p *uint32) uint32 { return atomic.LoadUint32(p) }

func store(p *uint32, v uint32) { atomic.StoreUint32(p, v) }

func add(p *uint32) { atomic.AddUint32(p, 1) }

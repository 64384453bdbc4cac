package refork

import (
	"encoding/binary"
	"os"
)

const (
	pageSize = 4 << 10
	hugePage = 2 << 20
)

// resident returns the parts of a segment that are in memory or swapped out (proc_pid_pagemap(5)): 8 bytes for each page, of
// which bits 63 and 62 say so. Memory that was never written to is neither. Where the kernel does not tell, as for a pagemap that is
// nil, it is the whole segment.
func resident(pagemap *os.File, s segment) (parts []segment) {
	first := s.from / pageSize
	entries := make([]byte, (s.to-first*pageSize+pageSize-1)/pageSize*8)
	if _, err := pagemap.ReadAt(entries, int64(first*8)); err != nil {
		return []segment{s}
	}
	for i := 0; i < len(entries); i += 8 {
		if binary.LittleEndian.Uint64(entries[i:])>>62 == 0 {
			continue
		}
		page := (first + uintptr(i/8)) * pageSize
		part := segment{max(page, s.from), min(page+pageSize, s.to)}
		if n := len(parts); n > 0 && parts[n-1].to == part.from {
			parts[n-1].to = part.to
			continue
		}
		parts = append(parts, part)
	}
	return parts
}

//go:build amd64 || arm64

package refork

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// segment is a range of addresses, such as the program's writable data.
type segment struct{ from, to uintptr }

func (s segment) holds(addr uint64) bool {
	return uintptr(addr) >= s.from && uintptr(addr)+8 <= s.to
}

// dataSegment returns the mappings around a variable of this package, up to the
// next gaps (proc_pid_maps(5)). The runtime's variables are there.
func dataSegment() (segment, error) {
	own := uintptr(unsafe.Pointer(&shared))
	var s segment
	list, err := mappings()
	if err != nil {
		return s, err
	}
	for _, m := range list {
		if !m.writable || m.private && strings.HasPrefix(m.name, "[") {
			continue
		}
		if m.from != s.to {
			if own >= s.from && own < s.to {
				break
			}
			s.from = m.from
		}
		s.to = m.to
	}
	if own < s.from || own >= s.to {
		return s, &Refused{Reason: "/proc/self/maps does not show the program's data"}
	}
	return s, nil
}

// mapping is a line of /proc/self/maps.
type mapping struct {
	from, to          uintptr
	writable, private bool
	name              string // "" is anonymous memory
}

func mappings() ([]mapping, error) {
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, &Refused{Reason: "no list of this process's memory", Err: err}
	}
	var list []mapping
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line) // 00400000-00452000 rw-p 00000000 08:02 173521 /usr/bin/x
		if len(fields) < 5 {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil || len(fields[1]) != 4 {
			return nil, &Refused{Reason: fmt.Sprintf("/proc/self/maps has a line %q", line)}
		}
		m := mapping{from: uintptr(start), to: uintptr(end), writable: fields[1][:2] == "rw",
			private: fields[1][3] == 'p'}
		if len(fields) > 5 {
			m.name = fields[5]
		}
		list = append(list, m)
	}
	return list, nil
}

// A huge page is one entry of the page tables in place of a table, which is a page of
// 8-byte entries: 2 MiB with pages of 4 KiB, and 512 MiB with pages of 64 KiB.
var (
	pageSize = uintptr(os.Getpagesize())
	hugePage = pageSize * pageSize / 8
)

// resident returns the parts of a segment in memory or in the swap.
// The pagemap has 8 bytes for each page, with bits 63 and 62 for this
// (proc_pid_pagemap(5)). Memory without a write has neither bit. If
// the pagemap cannot be read, or is nil, resident returns the whole segment.
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

// descriptors returns this process's open descriptors with their links in
// /proc.
func descriptors() (map[int]string, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, &Refused{Reason: "no list of this process's descriptors", Err: err}
	}
	links := map[int]string{}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if link, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil {
			links[fd] = link
		}
	}
	return links, nil
}

// cgroupFile is a descriptor on a CPU limit of the control group. The runtime
// keeps it open from its start, and reads it from time to time (Go 1.25 and
// later).
type cgroupFile struct {
	fd       int
	dev, ino uint64
}

func cgroupFiles() ([]cgroupFile, error) {
	links, err := descriptors()
	if err != nil {
		return nil, err
	}
	var files []cgroupFile
	for fd, name := range links {
		switch filepath.Base(name) {
		case "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us":
			var st syscall.Stat_t
			if err := syscall.Fstat(fd, &st); err == nil {
				files = append(files, cgroupFile{fd, st.Dev, st.Ino})
			}
		}
	}
	return files, nil
}

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Environment variables of children and templates, with the values of -init and
// -heap.
const (
	initEnv = "SPAWNBENCH_INIT"
	heapEnv = "SPAWNBENCH_HEAP"
)

// environ returns the environment of a child or template, or nil for the
// environment of this process.
func (k kind) environ() []string {
	if k.init == 0 && k.heap == 0 {
		return nil
	}
	return append(os.Environ(), fmt.Sprintf("%s=%v", initEnv, k.init),
		fmt.Sprintf("%s=%d", heapEnv, k.heap))
}

// beBusy computes for the time in initEnv, like slow package inits.
func beBusy() {
	began := time.Now()
	for d, _ := time.ParseDuration(os.Getenv(initEnv)); time.Since(began) < d; {
	}
}

// heap is the memory of the template.
var heap [][]byte

const heapBlock = 64 << 10

func loadHeap() error {
	n, err := strconv.Atoi(os.Getenv(heapEnv))
	if err != nil {
		return fmt.Errorf("%s: %w", heapEnv, err)
	}
	for ; n > 0; n -= heapBlock {
		b := make([]byte, min(n, heapBlock))
		for i := range b {
			b[i] = byte(i)
		}
		heap = append(heap, b)
	}
	return nil
}

// sizes is a flag with a list of sizes in bytes. 1K is 1024.
type sizes []int

const units = "KMG"

func (s *sizes) String() string { return sizeStrings(*s) }

func (s *sizes) Set(text string) error {
	*s = nil
	for _, t := range strings.Split(text, ",") {
		digits, shift := t, 0
		if len(t) > 0 {
			if at := strings.IndexByte(units, t[len(t)-1]); at >= 0 {
				digits, shift = t[:len(t)-1], 10*(at+1)
			}
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is no size such as 0, 64K, 100M or 1G", t)
		}
		*s = append(*s, int(n)<<shift)
	}
	return nil
}

func sizeStrings(s []int) string {
	var list []string
	for _, n := range s {
		list = append(list, sizeString(n))
	}
	return strings.Join(list, ",")
}

func sizeString(n int) string {
	for i := len(units); i > 0; i-- {
		if n > 0 && n%(1<<(10*i)) == 0 {
			return fmt.Sprintf("%d%c", n>>(10*i), units[i-1])
		}
	}
	return strconv.Itoa(n)
}

// durations is a flag with a list of durations.
type durations []time.Duration

func (d *durations) String() string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint([]time.Duration(*d)), "[]"), " ", ",")
}

func (d *durations) Set(text string) error {
	*d = nil
	for _, t := range strings.Split(text, ",") {
		one, err := time.ParseDuration(t)
		if err == nil && one < 0 {
			err = fmt.Errorf("%v is negative", one)
		}
		if err != nil {
			return err
		}
		*d = append(*d, one)
	}
	return nil
}

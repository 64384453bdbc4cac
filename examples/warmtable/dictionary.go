package main

import (
	"bytes"
	"encoding/binary"
	"sort"
)

// dictionary is a table of words and their meanings. It has only two pointers,
// so a garbage collection does not scan or mark its memory.
type dictionary struct {
	starts  []byte // of each record, four bytes each
	records []byte // "word meaning\n", sorted
}

// start returns the offset of record i.
func (d *dictionary) start(i int) uint32 { return binary.LittleEndian.Uint32(d.starts[4*i:]) }

// table is a dictionary in one of its two forms.
type table interface {
	lookup(word string) (meaning string, ok bool)
}

func (d *dictionary) lookup(word string) (string, bool) {
	key := []byte(word + " ")
	n := len(d.starts) / 4
	i := sort.Search(n,
		func(i int) bool { return bytes.Compare(d.records[d.start(i):], key) >= 0 })
	if i == n {
		return "", false
	}
	meaning, ok := bytes.CutPrefix(d.records[d.start(i):], key)
	if !ok {
		return "", false
	}
	meaning, _, _ = bytes.Cut(meaning, []byte("\n"))
	return string(meaning), true
}

// pointers is a table with three pointers for each record, as in many programs.
type pointers map[string]*string

func (p pointers) lookup(word string) (string, bool) {
	meaning, ok := p[word]
	if !ok {
		return "", false
	}
	return *meaning, true
}

// extent is the size of a dictionary.
type extent struct {
	records int
	bytes   int // of the records and their start offsets
}

// maxSize is the largest size in bytes. An offset must fit into a uint32, and
// there must be enough words.
const maxSize = 4e9

// extentOf returns the extent of the largest dictionary of at most size bytes.
func extentOf(size int) (e extent) {
	for {
		more := (wordLen+1)*(1+meanings(e.records)) + 4
		if e.bytes+more > size {
			return e
		}
		e.bytes += more
		e.records++
	}
}

// newDictionary makes the dictionary of at most size bytes.
func newDictionary(size int) *dictionary {
	e := extentOf(size)
	b := make([]byte, e.bytes)
	e.fill(b)
	return e.dictionary(b)
}

// dictionary returns the dictionary in b, which fill has written.
func (e extent) dictionary(b []byte) *dictionary {
	return &dictionary{starts: b[:4*e.records], records: b[4*e.records:]}
}

// fill writes a dictionary of this extent into b. It is always the same. A real
// program would read a file here.
func (e extent) fill(b []byte) {
	d := e.dictionary(b)
	records := d.records[:0]
	for i := range e.records {
		binary.LittleEndian.PutUint32(d.starts[4*i:], uint32(len(records)))
		records = appendWord(records, i, 0)
		records = append(records, ' ')
		records = appendMeaning(records, i)
		records = append(records, '\n')
	}
}

func newPointers(size int) pointers {
	p := make(pointers)
	for i := range extentOf(size).records {
		meaning := meaningOf(i)
		p[wordOf(i)] = &meaning
	}
	return p
}

// A word has five syllables. Record i has the word with the number spread*i, and
// the words between two records are in no dictionary.
const (
	wordLen    = 10
	consonants = "bcdfghjklmnpqrstvwxyz"
	vowels     = "aeiou"
	spread     = 100
)

// appendWord appends the word of record i, or with 0 < offset < spread a missing
// word after it.
func appendWord(b []byte, i, offset int) []byte {
	number := spread*i + offset
	var word [wordLen]byte
	for at := len(word) - 2; at >= 0; at -= 2 {
		word[at] = consonants[number/len(vowels)%len(consonants)]
		word[at+1] = vowels[number%len(vowels)]
		number /= len(consonants) * len(vowels)
	}
	return append(b, word[:]...)
}

func wordOf(i int) string { return string(appendWord(nil, i, 0)) }

// missingAfter returns a word after that of record i. It is in no dictionary.
func missingAfter(i int) string {
	return string(appendWord(nil, i, 1+int(mix(uint64(i))%(spread-1))))
}

// appendMeaning appends the meaning of record i, two to seven words.
func appendMeaning(b []byte, i int) []byte {
	x := mix(uint64(i))
	for k := range meanings(i) {
		if k > 0 {
			b = append(b, ' ')
		}
		b = appendWord(b, int(x>>(8*k)%1e6), 0)
	}
	return b
}

func meaningOf(i int) string { return string(appendMeaning(nil, i)) }

func meanings(i int) int { return 2 + int(mix(uint64(i))%6) }

// mix maps each number to one that looks random. It is the finalizer of
// splitmix64 (Steele, Lea and Flood, 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

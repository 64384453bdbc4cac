package main

import (
	"bytes"
	"sort"
)

// dictionary is a table of words and what they mean. It has two pointers in all, whatever its size: a collection has nothing to look
// for in its memory, and so does not write to it.
type dictionary struct {
	records []byte   // "word meaning\n", sorted
	starts  []uint32 // of each record
}

// table is what a child looks words up in.
type table interface {
	lookup(word string) (meaning string, ok bool)
}

func (d *dictionary) lookup(word string) (string, bool) {
	key := []byte(word + " ")
	i := sort.Search(len(d.starts), func(i int) bool { return bytes.Compare(d.records[d.starts[i]:], key) >= 0 })
	if i == len(d.starts) {
		return "", false
	}
	meaning, ok := bytes.CutPrefix(d.records[d.starts[i]:], key)
	if !ok {
		return "", false
	}
	meaning, _, _ = bytes.Cut(meaning, []byte("\n"))
	return string(meaning), true
}

// pointers is the same as many programs would have it, with three pointers for each record.
type pointers map[string]*string

func (p pointers) lookup(word string) (string, bool) {
	meaning, ok := p[word]
	if !ok {
		return "", false
	}
	return *meaning, true
}

// extent is how large a dictionary is.
type extent struct {
	records int
	bytes   int // of the records and of where they start
}

// maxSize is what can be pointed into with a uint32, and what there are words for.
const maxSize = 4e9

// extentOf returns that of the largest dictionary of at most so many bytes.
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

// newDictionary makes the one of so many bytes: each time the same. Another program would read a file here.
func newDictionary(size int) *dictionary {
	e := extentOf(size)
	d := &dictionary{records: make([]byte, 0, e.bytes-4*e.records), starts: make([]uint32, 0, e.records)} // no more than it takes
	for i := range e.records {
		d.starts = append(d.starts, uint32(len(d.records)))
		d.records = appendWord(d.records, i, 0)
		d.records = append(d.records, ' ')
		d.records = appendMeaning(d.records, i)
		d.records = append(d.records, '\n')
	}
	return d
}

func newPointers(size int) pointers {
	p := make(pointers)
	for i := range extentOf(size).records {
		meaning := meaningOf(i)
		p[wordOf(i)] = &meaning
	}
	return p
}

// A word is five syllables. The record i has the one with the number spread*i, so that others lie between that are in no dictionary.
const (
	wordLen    = 10
	consonants = "bcdfghjklmnpqrstvwxyz"
	vowels     = "aeiou"
	spread     = 100
)

// appendWord appends the word of record i, or with a number below spread one behind it.
func appendWord(b []byte, i, behind int) []byte {
	number := spread*i + behind
	var word [wordLen]byte
	for at := len(word) - 2; at >= 0; at -= 2 {
		word[at], word[at+1] = consonants[number/len(vowels)%len(consonants)], vowels[number%len(vowels)]
		number /= len(consonants) * len(vowels)
	}
	return append(b, word[:]...)
}

func wordOf(i int) string { return string(appendWord(nil, i, 0)) }

// missingAfter returns a word that is in no dictionary.
func missingAfter(i int) string { return string(appendWord(nil, i, 1+int(mix(uint64(i))%(spread-1)))) }

// appendMeaning appends two to seven words.
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

// mix is the finalizer of splitmix64 (Steele, Lea and Flood, 2014): it makes of each number another one that looks random.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDictionary_Lookup(t *testing.T) {
	const size = 1_000_000
	e := extentOf(size)
	require.Greater(t, e.records, 1000)
	assert.LessOrEqual(t, e.bytes, size)
	d := newDictionary(size)
	assert.Equal(t, e, extent{records: len(d.starts) / 4, bytes: len(d.records) + len(d.starts)})
	assert.Equal(t, byte('\n'), d.records[len(d.records)-1], "it is full")

	for name, table := range map[string]table{"without pointers": d,
		"with pointers": newPointers(size)} {
		t.Run(name, func(t *testing.T) {
			for i := range e.records {
				meaning, ok := table.lookup(wordOf(i))
				require.True(t, ok, wordOf(i))
				require.Equal(t, meaningOf(i), meaning)
				_, ok = table.lookup(missingAfter(i))
				require.False(t, ok, missingAfter(i))
			}
			for _, word := range []string{"", "a", "babababab", "zzz", wordOf(e.records),
				wordOf(1)[:9], wordOf(1) + " "} {
				_, ok := table.lookup(word)
				assert.False(t, ok, "%q", word)
			}
		})
	}
}

func TestDictionary_WordsAreSorted(t *testing.T) {
	for i := range 100_000 {
		require.Less(t, wordOf(i), missingAfter(i))
		require.Less(t, missingAfter(i), wordOf(i+1))
	}
	assert.Equal(t, "bababababa", wordOf(0))
}

package spawnspec

import (
	"testing"
	"unicode"
)

func TestCheckName_KnowsAllControlCharacters(t *testing.T) {
	for r := range unicode.MaxRune + 1 {
		if unicode.IsControl(r) != isControl(r) {
			t.Errorf("%U", r)
		}
	}
}

package cbor

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// MaxMessageNesting is how deep the arrays and maps of a message may nest.
const MaxMessageNesting = 64

var (
	errMalformed      = errors.New("an item is not well-formed")
	errMessageTooDeep = fmt.Errorf("more than %d levels of arrays and maps", MaxMessageNesting)
)

const (
	infoOpen     = 31   // the additional information of an item of indefinite length
	initialBreak = 0xff // the end of such an item
	bigPositive  = 2    // tags of big numbers
	bigNegative  = 3
)

// CheckMessage reports why a receiver refuses a message with this encoding. It
// refuses text that is not UTF-8, and arrays and maps with too deep nesting. It also
// refuses arrays, maps, big numbers, and tags around them, as keys: programs cannot
// compare them. It does not look into tags.
//
// Every Send calls it, so it is written for speed, and not with a Reader.
func CheckMessage(data []byte) error {
	next, err := checkItem(data, 0, MaxMessageNesting)
	if err == nil && next < len(data) {
		err = fmt.Errorf("%d bytes too many", len(data)-next)
	}
	return err
}

// checkItem checks the item at an index of data. It returns the index
// after the item.
func checkItem(data []byte, at, nesting int) (next int, err error) {
	if at < len(data) && data[at] < 24 { // a small number, as in long arrays
		return at + 1, nil
	}
	at, major, open, n := itemHead(data, at)
	for tags := 0; major == majorTag; tags++ {
		if tags > 0 { // as receivers count
			nesting--
		}
		at, major, open, n = itemHead(data, at)
	}
	switch {
	case nesting < 0:
		return 0, errMessageTooDeep
	case at < 0:
		return 0, errMalformed
	case major < majorBytes || major == majorSimple:
		return at, nil
	case major <= majorText && open:
		return checkPieces(data, at, major)
	case major <= majorText:
		if n > uint64(len(data)-at) {
			return 0, io.ErrUnexpectedEOF
		}
		next = at + int(n)
		if major == majorText && !utf8.Valid(data[at:next]) {
			return 0, errNotText
		}
		return next, nil
	case nesting == 0:
		return 0, errMessageTooDeep
	}
	return checkItems(data, at, nesting-1, n, open, major == majorMap)
}

// checkPieces checks the pieces of a string until a break. Each is a string of the
// same type, with its length.
func checkPieces(data []byte, at int, major byte) (next int, err error) {
	for at < len(data) && data[at] != initialBreak {
		if data[at]>>5 != major || data[at]&0x1f == infoOpen {
			return 0, errMalformed
		}
		if at, err = checkItem(data, at, 0); err != nil {
			return 0, err
		}
	}
	if at == len(data) {
		return 0, errMalformed
	}
	return at + 1, nil
}

// checkItems checks the n elements of an array, the pairs of a map, or what comes
// before a break.
func checkItems(
	data []byte, at, nesting int, n uint64, open, pairs bool,
) (next int, err error) {
	for ; n > 0 || open; n-- {
		if open && at < len(data) && data[at] == initialBreak {
			return at + 1, nil
		}
		if pairs {
			if at < len(data) && data[at]>>5 != majorText {
				if err := checkKey(data, at); err != nil {
					return 0, err
				}
			}
			if at, err = checkItem(data, at, nesting); err != nil {
				return 0, err
			}
		}
		if at, err = checkItem(data, at, nesting); err != nil {
			return 0, err
		}
	}
	return at, nil
}

// checkKey checks the type of a key.
func checkKey(data []byte, at int) error {
	at, major, _, n := itemHead(data, at)
	for major == majorTag {
		if n == bigPositive || n == bigNegative {
			return errors.New("a key of a map is a big number")
		}
		at, major, _, n = itemHead(data, at)
	}
	if major == majorArray || major == majorMap {
		return fmt.Errorf("a key of a map is %s", kinds[major])
	}
	return nil
}

// itemHead reads the head of an item at an index (RFC 8949, section 3). It returns
// the index after the head, or -1 if the item is not well-formed.
func itemHead(data []byte, at int) (next int, major byte, open bool, n uint64) {
	if uint(at) >= uint(len(data)) {
		return -1, majorSimple, false, 0
	}
	first := data[at]
	major, info := first>>5, first&0x1f
	at++
	switch {
	case info < 24:
		return at, major, false, uint64(info)
	case info == infoOpen && major >= majorBytes && major <= majorMap:
		return at, major, true, 0
	case info > 27:
		return -1, majorSimple, false, 0
	}
	size := 1 << (info - 24)
	if len(data)-at < size {
		return -1, majorSimple, false, 0
	}
	for _, c := range data[at : at+size] {
		n = n<<8 | uint64(c)
	}
	if major == majorSimple && info == 24 && n < 32 { // RFC 8949, section 3.3
		return -1, majorSimple, false, 0
	}
	return at + size, major, false, n
}

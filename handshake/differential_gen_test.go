package handshake

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// generator makes random inputs for readers: valid ones, and others with a fault.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) *generator {
	return &generator{rand.New(rand.NewPCG(seed, 0))}
}

// one reports true once in n times.
func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

// input returns a random input of the kind. See judge.py for the letters.
func (g *generator) input(kind byte) []byte {
	switch kind {
	case 'A':
		return g.mutatedText(g.address())
	case 'T':
		return g.mutatedText(g.ticket())
	case 'F':
		return g.stream()
	case 'G':
		return g.mutated(g.message('g'))
	case 'U':
		return g.mutated(g.sealed())
	case 'P':
		return g.mutated(pick(g, g.blob(g.word()), g.blob(strings.Repeat("p", 32)),
			g.item(3, false)))
	}
	return g.mutated(g.message(kind))
}

// mutated returns data as it is, or with a random fault.
func (g *generator) mutated(data []byte) []byte {
	if len(data) == 0 || !g.one(3) {
		return data
	}
	at := g.IntN(len(data))
	switch g.IntN(6) {
	case 0:
		return data[:at]
	case 1:
		return append(data, byte(g.Uint32()))
	case 2: // a byte more
		return append(append(append([]byte{}, data[:at]...), byte(g.Uint32())), data[at:]...)
	case 3: // a byte less
		return append(append([]byte{}, data[:at]...), data[at+1:]...)
	case 4: // the item is twice there, or another one
		from := g.IntN(len(data))
		return append(append([]byte{}, data[:at]...), data[from:]...)
	}
	data[at] = pick(g, byte(g.Uint32()), data[at]^1<<g.IntN(8))
	return data
}

// Numbers at the borders of the fields.
var borders = []uint64{0, 1, 2, 23, 24, 63, 64, 65, 255, 256, 257, 999, 1000, 1001, 65535,
	65536, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<53 - 1, 1 << 53, 1<<53 + 1,
	1<<63 - 1, 1 << 63, 1<<64 - 1}

func (g *generator) number() uint64 {
	if g.one(3) {
		return g.Uint64() >> g.IntN(64)
	}
	return pick(g, borders...)
}

// head encodes the head of an item, sometimes longer than it need be.
func (g *generator) head(major byte, n uint64) []byte {
	least := 0
	switch {
	case n > math.MaxUint32:
		least = 4
	case n > math.MaxUint16:
		least = 3
	case n > math.MaxUint8:
		least = 2
	case n > 23:
		least = 1
	}
	size := least
	if g.one(12) {
		size = least + g.IntN(5-least)
	}
	if size == 0 {
		return []byte{major<<5 | byte(n)}
	}
	b := binary.BigEndian.AppendUint64(nil, n)
	return append([]byte{major<<5 | byte(23+size)}, b[8-1<<(size-1):]...)
}

func (g *generator) text(s string) []byte { return append(g.head(3, uint64(len(s))), s...) }
func (g *generator) blob(s string) []byte { return append(g.head(2, uint64(len(s))), s...) }

// characters are at the borders of what a field may have. Some are not UTF-8.
var characters = []string{"a", "Z", "~", "!", "/", "0", "-", "+", " ", "\x00", "\x1f", "\x7f",
	"é", "\u0080", "\u009f", "\u00a0", "ı", "\u2028", "\ufeff", "日", "\ufffd", "\U0010ffff",
	"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80"}

func (g *generator) word() string {
	if g.one(12) {
		return strings.Repeat(pick(g, "x", "é", "日"), pick(g,
			21, 22, 32, 33, 64, 65, 85, 86, 128, 129, 256, 257))
	}
	var b strings.Builder
	for range g.IntN(6) {
		if n := 12; g.one(4) {
			n = len(characters)
			b.WriteString(pick(g, characters[:n]...))
		} else {
			b.WriteString(pick(g, characters[:9]...))
		}
	}
	return b.String()
}

// item returns any item. A strict one has no tags and floats, and mostly text for keys,
// but it may be too deep or too long.
func (g *generator) item(depth int, strict bool) []byte {
	if depth <= 0 {
		return g.head(0, g.number())
	}
	kinds := 8
	if !strict {
		kinds = 12
	}
	switch g.IntN(kinds) {
	case 0:
		return g.head(0, g.number())
	case 1:
		return g.head(1, g.number())
	case 2:
		return g.blob(g.word())
	case 3, 4:
		return g.text(g.word())
	case 5:
		n := pick(g, 0, 1, 2, 3)
		if g.one(30) {
			n = pick(g, 63, 64, 65)
		}
		b := g.head(4, uint64(n))
		for range n {
			b = append(b, g.item(min(depth-1, 200/(n+1)), strict)...)
		}
		return b
	case 6:
		return g.anyMap(depth, strict)
	case 7:
		return []byte{pick(g, byte(0xf4), 0xf5)}
	case 8:
		tag := g.head(6, pick[uint64](g, 0, 1, 2, 3, 32, 258, 55799))
		return append(tag, g.item(depth-1, strict)...)
	case 9:
		return []byte(pick(g, "\xf6", "\xf7", "\xf9\x3c\x00", "\xf9\x7e\x00",
			"\xfa\x3f\x80\x00\x00", "\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00",
			"\xe0", "\xf3", "\xf8\x20", "\xf8\xff"))
	case 10:
		return []byte(pick(g, "\xf8\x00", "\xf8\x14", "\xf8\x1f", "\xff", "\x9f\xff",
			"\xbf\xff", "\x5f\xff", "\x7f\xff", "\x1c", "\xfc", "\xdc\x00", "\xdf\x00"))
	}
	return g.deep(strict)
}

func (g *generator) anyMap(depth int, strict bool) []byte {
	n := pick(g, 0, 1, 2, 3)
	if g.one(30) {
		n = pick(g, 63, 64, 65)
	}
	b := g.head(5, uint64(n))
	for i := range n {
		switch {
		case n > 60:
			b = append(b, g.text(fmt.Sprint(i))...)
		case strict && !g.one(20):
			b = append(b, g.text(g.word())...)
		default:
			b = append(b, g.item(depth-1, strict)...)
		}
		b = append(b, g.item(min(depth-1, 200/(n+1)), strict)...)
	}
	return b
}

// deep nests about as deep as an item may.
func (g *generator) deep(strict bool) (b []byte) {
	levels := pick(g, 5, 6, 7, 8, 9, 61, 62, 63, 64)
	for range levels {
		switch {
		case strict || g.one(2):
			b = append(b, pick(g, "\x81", "\xa1\x61x")...)
		default:
			b = append(b, pick(g, "\x81", "\xa1\x00", "\xc1", "\xd8\x20", "\xa1\x81\x00")...)
		}
	}
	return append(b, pick(g, "\x00", "\x60", "\x80")...)
}

// sealed returns a sealed message for a key of zeros.
func (g *generator) sealed() []byte {
	payload := []byte(g.word())
	sum := mac(make([]byte, 32), labelHello, payload)
	if g.one(8) {
		sum[g.IntN(32)] ^= 1
	}
	sum = sum[:pick(g, 32, 32, 32, 32, 32, 31, 0)]
	parts := [][]byte{g.blob(string(payload)), g.blob(string(sum))}
	if g.one(20) {
		parts = append(parts, g.item(2, true))
	}
	if g.one(20) {
		parts[g.IntN(2)] = g.item(2, false)
	}
	return slices.Concat(append([][]byte{g.head(4, uint64(len(parts)))}, parts...)...)
}

// versions returns a range of versions.
func (g *generator) versions() []byte {
	b := g.head(4, pick[uint64](g, 2, 2, 2, 2, 2, 2, 1, 3))
	if !g.one(3) {
		return append(b, pick(g, "\x01\x01", "\x01\x02", "\x02\x03", "\x00\x01")...)
	}
	for range 2 {
		b = append(b, g.head(0, g.number())...)
	}
	return b
}

func (g *generator) features() []byte {
	n := pick(g, 0, 1, 2)
	if g.one(8) {
		n = pick(g, 64, 65)
	}
	b := g.head(4, uint64(n))
	for range n {
		b = append(b, g.text(pick(g, "control", "x", g.word()))...)
	}
	return b
}

// usual has valid values of fields.
var usual = map[string]string{
	"id": "\x64left", "name": "\x66worker", "entry": "\x62do", "method": "\x64exec",
	"reason": "\x60", "error": "\x63why", "phase": "\x64auth", "code": "\x65error",
	"auth": "\x63key", "nonce": "\x58\x20" + strings.Repeat("n", 32), "versions": "\x82\x01\x01",
	"features": "\x81\x67control", "pid": "\x19\x12\x67", "version": "\x01", "v": "\x01",
	"depth": "\x01", "status": "\x00", "log": "\x65DEBUG", "dir": "\x64/tmp", "grace": "\x05",
	"silence": "\x05",
}

// field returns the value of a field. Most values are valid.
func (g *generator) field(key string) []byte {
	if value := usual[key]; value != "" && !g.one(4) {
		return []byte(value)
	}
	switch key {
	case "id":
		return g.text(pick(g, "left", "left", "left", "right", g.word()))
	case "name", "entry", "method", "reason", "error", "phase", "code":
		return g.text(pick(g, "worker", "é日", g.word()))
	case "auth":
		return g.text(pick(g, "key", "key", "key", "none", g.word()))
	case "nonce":
		return g.blob(strings.Repeat("n", pick(g, 32, 32, 32, 32, 32, 32, 31, 33, 0)))
	case "versions":
		return g.versions()
	case "features":
		return g.features()
	case "pid", "version", "limit", "grace", "silence", "init", "main", "connected", "accepted":
		return g.head(0, pick(g, 1, 4711, g.number()))
	case "v":
		return g.head(0, pick(g, 1, 1, 1, 1, 1, 1, 1, g.number()))
	case "depth":
		return g.head(0, pick(g, 1, 1, 1000, g.number()))
	case "deadline", "status":
		return g.head(byte(g.IntN(2)), g.number())
	case "log":
		return g.text(pick(g, "DEBUG", "INFO", "WARN", "ERROR", "INFO", "TRACE", "info", "ıNFO") +
			pick(g, "", "", "+", "-", "+1", "-12", "+123456789", "-1234567890",
				"+-1", "+1 ", "+٣", "\n"))
	case "dir":
		return g.text(pick(g, "/", "/tmp/a b", "/", "tmp", "/"+g.word()))
	case "args":
		return g.item(6, false)
	case "timings":
		return g.fields("init", "main", "connected", "accepted")
	}
	return g.item(4, !g.one(6))
}

// fields returns a map with the fields in any order. Some are absent, twice there, of
// another type, or not known.
func (g *generator) fields(keys ...string) []byte {
	var pairs [][]byte
	add := func(key string, value []byte) { pairs = append(pairs, append(g.text(key), value...)) }
	for _, key := range keys {
		switch {
		case strings.HasSuffix(key, "?") && g.one(2), g.one(60):
		case g.one(80):
			add(strings.TrimSuffix(key, "?"), g.item(3, false))
		default:
			add(strings.TrimSuffix(key, "?"), g.field(strings.TrimSuffix(key, "?")))
		}
	}
	for g.one(3) {
		add(pick(g, "later", "__proto__", "constructor", "", g.word()), g.item(4, !g.one(6)))
	}
	if g.one(60) && len(pairs) > 0 {
		pairs = append(pairs, pick(g, pairs...))
	}
	g.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	n := len(pairs)
	if g.one(80) {
		n += pick(g, -1, 1)
	}
	b := g.head(5, uint64(max(n, 0)))
	for _, p := range pairs {
		b = append(b, p...)
	}
	return b
}

// message returns a message of the kind.
func (g *generator) message(kind byte) []byte {
	switch kind {
	case 'h':
		return g.fields("versions", "id", "name", "pid", "nonce", "features?")
	case 'w':
		return g.fields("version", "id", "name", "pid", "nonce", "features?", "limit?")
	case 'g':
		return g.fields("versions", "id", "name", "pid", "nonce", "auth", "features?")
	case 'f':
		return g.fields("phase", "code", "error", "versions?")
	case 'r':
		return g.fields("timings?")
	case 'c':
		return g.fields("reason?", "grace?")
	case 'b':
		return g.fields("status", "reason?")
	case 'a':
		return g.fields("id", "nonce")
	}
	return g.fields("v", "name", "method", "depth", "entry?", "args?", "dir?", "log?", "deadline?",
		"grace?")
}

// mutatedText returns s, or with another character. It is UTF-8.
func (g *generator) mutatedText(s string) []byte {
	for g.one(3) && len(s) > 0 {
		at := g.IntN(len(s))
		other := pick(g, "", "", "a", "F", "0", "1", ":", ".", "%", "[", "]", "/", "@", "#",
			" ", "\x00", "\n", "+", "-", "_", "é", "٣", "\u2028", "://")
		s = s[:at] + other + s[at+g.IntN(2):]
	}
	return []byte(strings.ToValidUTF8(s, "?"))
}

func (g *generator) address() string {
	port := fmt.Sprint(pick(g, 0, 1, 9, 10, 80, 999, 1000, 9999, 10000, 59999, 60000, 64999, 65000,
		65499, 65500, 65529, 65530, 65535, 65536, 65540, 65600, 66000, 70000, 99999, 100000))
	port = pick(g, port, port, port, port, port, "0"+port, "", "+1", "http")
	host := pick(g, "127.0.0.1", "localhost", "My-host_1.example.org", "[::1]", "[fe80::1%eth0]",
		"[::ffff:1.2.3.4%a_b-c.d]", "[:]", "[1]", "[]", "", "::1", "[a:b:g]", "[::1%]",
		"..", "[%x]", "[::1]]", "[[::1]]", "1.2.3.4.5")
	pin := strings.Repeat(pick(g, "0", "a", "F", "09", "aB", "x"), pick(g, 32, 64, 63, 65, 31))
	switch g.IntN(8) {
	case 0:
		return "uds://" + pick(g, "/", "/run/x.sock", "/a b/ü", "x", "", "/\n") + g.readable()
	case 1:
		return "uds://@" + pick(g, "", "name", "a/b", "@") + g.readable()
	case 2:
		return pick(g, "udp", "TCP", "", "tcps", "uds", "tcp:") + "://" + host + ":" + port
	case 3, 4:
		return "tcp://" + host + ":" + port + pick(g, "", "", "", "", "/x", "#"+pin)
	case 5:
		return "tls://" + host + ":" + port
	}
	return "tls://" + host + ":" + port + "#" + pin
}

// readable returns UTF-8.
func (g *generator) readable() string { return strings.ToValidUTF8(g.word(), "?") }

func (g *generator) ticket() string {
	secret := strings.Repeat(pick(g, "0", "a", "9", "F", "B"), 64)
	at := "uds:///run/a b"
	switch g.IntN(12) {
	case 0:
		secret = strings.Repeat(pick(g, "g", "0"), pick(g, 63, 64, 65, 66))
	case 1:
		return "1\tabc " + secret + " " + at
	case 2:
		return pick(g, "", "10", "2", " 1") + " abc " + secret + " " + at
	case 3, 4, 5, 6:
		at = g.address()
	}
	return "1 " + pick(g, "abc", "!~", "0", g.readable()) + " " + secret + " " + at
}

// stream returns a limit and frames.
func (g *generator) stream() []byte {
	limit := pick(g, 1, 2, 8, 16, 64, 65536)
	b := binary.LittleEndian.AppendUint32(nil, uint32(limit))
	for range g.IntN(8) {
		n := uint32(1 + g.IntN(min(limit, 20)))
		if g.one(20) {
			n = pick(g, 0, uint32(limit), uint32(limit)+1, math.MaxUint32)
		}
		kind := pick[byte](g, 0x01, 0x02, 0x10, 0x14, 0x17, 0x20, 0x23, 0x80, 0x80, 0x80,
			0x81, 0xff)
		if g.one(20) {
			kind = byte(g.Uint32())
		}
		b = append(binary.LittleEndian.AppendUint32(b, n), kind)
		for range min(n, 1<<16) - min(n, 1) {
			b = append(b, byte(g.Uint32()))
		}
	}
	if g.one(4) {
		b = b[:4+g.IntN(len(b)-3)]
	}
	return b
}

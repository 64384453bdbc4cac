// Package progname has the name of the running program.
package progname

import (
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

const maxLen = 256 // bytes: the limit of the protocol for a name

// Name returns the base name of the running program, without control characters
// and in valid UTF-8. A program may have emptied os.Args, or have been started
// with any text as its name. Then Name uses the program's file.
func Name() string {
	path := ""
	if len(os.Args) > 0 {
		path = os.Args[0]
	}
	if path == "" {
		path, _ = os.Executable()
	}
	return clean(filepath.Base(path))
}

func clean(name string) string {
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, "?"))
	for len(name) > maxLen {
		name = strings.ToValidUTF8(name[:maxLen], "")
	}
	if name == "" {
		return "program"
	}
	return name
}

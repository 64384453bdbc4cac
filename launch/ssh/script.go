package ssh

import (
	"slices"
	"strings"
)

// script runs in sh(1) on the other machine. It says with one line what it needs, and
// becomes the supervisor when the program is in the cache. It has no single quote, no
// line end and no exclamation mark, because the login shell there may be any.
//
// Its arguments are the nonce, the supervisor's order, the cache directory or nothing,
// and for each program "SYSTEM MACHINE=HASH", with the names of uname(1).
const script = `n=$1; o=$2; d=${3:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/spawnwire}; shift 3; ` +
	`say() { printf "%s\n" "spawnwire-$n $*"; }; ` +
	`m=$(uname -sm) || { say lacks uname; exit 1; }; ` +
	`h=; for a in "$@"; do case $a in "$m="*) h=${a#*=};; esac; done; ` +
	`if [ -z "$h" ]; then say platform "$m"; exit 1; fi; f=$d/$h; ` +
	`run() { if [ -x "$f" ]; then ` +
	`if [ -O "$f" ]; then export SPAWNWIRE_SUPERVISE="$o"; exec "$f"; fi; ` +
	`say foreign "$f"; exit 1; fi; ` +
	`if [ -e "$f" ]; then say noexec "$d"; exit 1; fi; }; ` +
	`run; say missing "$m"; while read -r c s; do case $c in ` +
	`look) run; say missing "$m";; ` +
	`send) t=$d/.$n; if e=$( { umask 077; mkdir -p "$d" && head -c "$s" >"$t" && ` +
	`chmod 700 "$t" && [ "$(wc -c <"$t")" -eq "$s" ] && mv -f "$t" "$f" && ` +
	`find "$d" -type f -mtime +30 -exec rm -f {} +; } 2>&1 ); ` +
	`then run; say lost "$f"; else rm -f "$t"; say fail "$d: $e"; fi; exit 1;; ` +
	`esac; done`

// remoteCommand returns the command for the login shell of the other machine.
func remoteCommand(nonce, order, dir string, programs map[string]*program) string {
	args := []string{nonce, order, dir}
	for name, p := range programs {
		args = append(args, name+"="+p.hash)
	}
	slices.Sort(args[3:])
	command := "exec sh -c '" + script + "' spawnwire"
	for _, a := range args {
		command += " '" + a + "'"
	}
	return command
}

// unames has the names of uname -sm for the platforms of Go.
var unames = map[string][]string{
	"linux/amd64":   {"Linux x86_64"},
	"linux/arm64":   {"Linux aarch64", "Linux arm64"},
	"linux/386":     {"Linux i686", "Linux i586", "Linux i386"},
	"linux/arm":     {"Linux armv7l", "Linux armv6l"},
	"linux/riscv64": {"Linux riscv64"},
	"linux/ppc64le": {"Linux ppc64le"},
	"linux/s390x":   {"Linux s390x"},
	"linux/loong64": {"Linux loongarch64"},
}

// platformOf returns the platform of Go for a text of uname -sm, or the text itself.
func platformOf(uname string) string {
	for platform, names := range unames {
		if slices.Contains(names, uname) {
			return platform
		}
	}
	return strings.TrimSpace(uname)
}

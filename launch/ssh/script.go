package ssh

import (
	"path"
	"slices"
	"strings"

	"github.com/spawnwire/spawnwire/internal/link"
)

// script runs in sh(1) on the other machine. It says with one line what it needs, and
// becomes the supervisor when the program is in the cache. Before that it says where the
// program is. It has no single quote, no
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
	`if [ -O "$f" ]; then say found "$SHELL" "$f"; ` +
	`export SPAWNWIRE_SUPERVISE="$o"; exec "$f"; fi; ` +
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

// directCommand returns the command for a login shell with the syntax of POSIX. The shell
// ends without an answer if the program is gone.
func directCommand(order, file string) string {
	file = "'" + file + "'"
	return "test -x " + file + " && test -O " + file + " && " +
		link.SupervisorEnv + "='" + order + "' exec " + file
}

// fileOf returns the place of the program, of an answer with the login shell and that
// place. It is "" if directCommand is not for them.
func fileOf(answer string) string {
	shell, file, _ := strings.Cut(answer, " ")
	switch path.Base(shell) {
	case "sh", "ash", "bash", "dash", "ksh", "mksh", "zsh":
		if !strings.ContainsAny(file, "'!\n\\") {
			return file
		}
	}
	return ""
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

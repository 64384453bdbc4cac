package spawnspec

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits. They are no defence, because the child reads a spec only from an
// authenticated parent. They find mistakes early, and keep names short enough
// for a line of a log.
const (
	maxName  = 256   // bytes
	maxPath  = 32767 // bytes: the longest path on Windows
	maxDepth = 1000

	maxLevelDigits = 9           // of the offset in a log level
	maxLevelOffset = 999_999_999 // the largest of so many digits
)

// check checks the caller's fields, except Args.
func (s *Spec) check() error {
	if s.Name == "" && s.Entry == "" {
		return fieldErrorf("name", "empty, and there is no entry to name the child after")
	}
	for _, f := range []struct{ field, name string }{{"name", s.Name}, {"entry", s.Entry}} {
		if f.name == "" {
			continue
		}
		if err := checkName(f.name); err != nil {
			return &FieldError{Field: f.field, Err: err}
		}
	}
	if s.Dir != "" {
		if err := checkDir(s.Dir); err != nil {
			return &FieldError{Field: "dir", Err: err}
		}
	}
	if s.LogLevel < slog.LevelDebug-maxLevelOffset || s.LogLevel > slog.LevelError+maxLevelOffset {
		return fieldErrorf("log", "the level %d is out of range", int(s.LogLevel))
	}
	if s.DeadAfter < 0 {
		return fieldErrorf("silence", "%v is negative", s.DeadAfter)
	}
	if !s.Deadline.IsZero() {
		first, last := time.Unix(0, math.MinInt64), time.Unix(0, math.MaxInt64)
		if s.Deadline.Before(first) || s.Deadline.After(last) {
			return fieldErrorf("deadline",
				"the year %d is out of range; want 1678 to 2261", s.Deadline.Year())
		}
	}
	return nil
}

// checkSpawner checks the spawner's fields.
func (s *Spec) checkSpawner() error {
	if s.Name == "" {
		return fieldErrorf("name", "empty")
	}
	if err := checkName(s.Method); err != nil {
		return &FieldError{Field: "method", Err: err}
	}
	if s.Depth < 1 || s.Depth > maxDepth {
		return fieldErrorf("depth", "%d is out of range; want 1 to %d", s.Depth, maxDepth)
	}
	if s.Grace < 0 {
		return fieldErrorf("grace", "%v is negative", s.Grace)
	}
	return nil
}

func checkName(s string) error {
	switch {
	case s == "":
		return errors.New("empty")
	case len(s) > maxName:
		return fmt.Errorf("%d bytes long; at most %d", len(s), maxName)
	case !utf8.ValidString(s):
		return fmt.Errorf("%q is not UTF-8", s)
	case strings.ContainsFunc(s, isControl):
		return fmt.Errorf("%q has a control character", s)
	}
	return nil
}

// isControl reports whether r is of the Unicode category Cc.
func isControl(r rune) bool { return r < ' ' || 0x7f <= r && r <= 0x9f }

func checkDir(dir string) error {
	switch {
	case len(dir) > maxPath:
		return fmt.Errorf("%d bytes long; at most %d", len(dir), maxPath)
	case !utf8.ValidString(dir):
		return fmt.Errorf("%q is not UTF-8", dir)
	case strings.IndexByte(dir, 0) >= 0:
		return fmt.Errorf("%q has a NUL byte", dir)
	case !filepath.IsAbs(dir):
		return fmt.Errorf("%q is not absolute", dir)
	}
	return nil
}

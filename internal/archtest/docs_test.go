package archtest

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// documents returns the text of each Markdown file outside .github, by its path
// relative to the root of the module.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := make(map[string]string)
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && file != root {
			if strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules" {
				return filepath.SkipDir
			}
		}
		if filepath.Ext(file) != ".md" {
			return nil
		}
		text, err := os.ReadFile(file)
		rel, _ := filepath.Rel(root, file)
		texts[filepath.ToSlash(rel)] = string(text)
		return err
	})
	require.NoError(t, err)
	require.Contains(t, texts, "README.md")
	return texts
}

// tests returns the names of the tests, fuzz targets, benchmarks and examples
// of each folder, by its path relative to the root of the module.
func tests(t *testing.T) map[string][]string {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark|Example)\w*)\(`)
	names := make(map[string][]string)
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		text, err := os.ReadFile(file)
		rel, _ := filepath.Rel(root, filepath.Dir(file))
		dir := filepath.ToSlash(rel)
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			names[dir] = append(names[dir], m[1])
		}
		return err
	})
	require.NoError(t, err)
	return names
}

func TestDocs_NamedTestsExist(t *testing.T) {
	there := slices.Concat(slices.Collect(maps.Values(tests(t)))...)
	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark|Example)[A-Z]\\w*)`")
	for file, text := range documents(t) {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			assert.Contains(t, there, m[1], "%s names a test", file)
		}
	}
}

// A command such as go test -run 'A|B' ./transport selects a test for each
// alternative of its expression.
func TestDocs_CommandsSelectTests(t *testing.T) {
	there := tests(t)
	command := regexp.MustCompile("go test [^`\n#]*")
	selector := regexp.MustCompile(` -(run|bench|fuzz) ('[^']*'|\S+)`)
	folder := regexp.MustCompile(` \./(\S*)`)
	for file, text := range documents(t) {
		for _, line := range command.FindAllString(strings.ReplaceAll(text, `\|`, `|`), -1) {
			var names []string
			for _, m := range folder.FindAllStringSubmatch(line, -1) {
				names = append(names, selected(there, m[1])...)
			}
			for _, m := range selector.FindAllStringSubmatch(line, -1) {
				expression := strings.Trim(m[2], "'")
				if expression == "^$" || strings.Contains(expression, "<") {
					continue
				}
				for _, fault := range unmatched(expression, names) {
					t.Errorf("%s: %s\n%s", file, line, fault)
				}
			}
		}
	}
}

// selected returns the names in a folder, or below it if the pattern ends in
// three dots.
func selected(there map[string][]string, pattern string) []string {
	tree, all := strings.CutSuffix(pattern, "...")
	tree = strings.TrimSuffix(tree, "/")
	var names []string
	for dir, in := range there {
		if dir == path.Clean(tree) || all && (tree == "" || strings.HasPrefix(dir, tree+"/")) {
			names = append(names, in...)
		}
	}
	return names
}

// unmatched returns a sentence for each alternative of the expression, at the
// top level or of one group, that matches none of the names.
func unmatched(expression string, names []string) []string {
	first, _, _ := strings.Cut(expression, "/")
	alternatives := strings.Split(first, "|")
	oneGroup := regexp.MustCompile(`^([^(|]*)\(([^()]*)\)([^)|]*)$`)
	if group := oneGroup.FindStringSubmatch(first); group != nil {
		alternatives = nil
		for _, middle := range strings.Split(group[2], "|") {
			alternatives = append(alternatives, group[1]+middle+group[3])
		}
	} else if strings.Contains(first, "(") {
		alternatives = []string{first}
	}
	var faults []string
	for _, alternative := range alternatives {
		re, err := regexp.Compile(alternative)
		if err != nil {
			faults = append(faults, err.Error())
		} else if !slices.ContainsFunc(names, re.MatchString) {
			faults = append(faults, fmt.Sprintf("no test matches %q", alternative))
		}
	}
	return faults
}

// Links between pages, and from a page to a heading or to a file, lead somewhere.
func TestDocs_LinksLeadSomewhere(t *testing.T) {
	texts := documents(t)
	link := regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?[^)]*\)`)
	for file, text := range texts {
		for _, m := range link.FindAllStringSubmatch(prose(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to := file
			if m[1] != "" {
				to = path.Join(path.Dir(file), m[1])
			}
			_, err := os.Stat(filepath.Join(root, to))
			assert.NoError(t, err, "%s links to %s", file, m[1])
			if page, ok := texts[to]; ok && m[2] != "" {
				assert.Contains(t, anchors(page), m[2], "%s links to %s%s", file, m[1], m[2])
			}
		}
	}
}

// prose returns the text of a page without its blocks of code and code in lines.
func prose(text string) string {
	text = regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(text, "")
	return regexp.MustCompile("`[^`\n]*`").ReplaceAllString(text, "")
}

// anchors returns the anchors of a page's headings as GitHub makes them. They
// are in lower case, with hyphens for spaces and without punctuation. The second
// heading of a name gets the number 1.
func anchors(text string) []string {
	text = regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(text, "")
	heading := regexp.MustCompile(`(?m)^#{1,6} +(.*?) *$`)
	linked := regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`)
	var found []string
	times := make(map[string]int)
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, linked.ReplaceAllString(m[1], "$1"))
		anchor := "#" + name
		if n := times[name]; n > 0 {
			anchor += fmt.Sprintf("-%d", n)
		}
		times[name]++
		found = append(found, anchor)
	}
	return found
}

func TestAnchors_AreThoseOfGitHub(t *testing.T) {
	assert.Equal(t, []string{"#a-b", "#2-c-d", "#a-b-1", "#the-page"},
		anchors("# A `b`\n\n## 2. C: d?\n### A b\n```sh\n# no heading\n```\n## The [page](x.md)\n"))
}

// Folders that a command names with a leading dot exist.
func TestDocs_FoldersInCommandsExist(t *testing.T) {
	folder := regexp.MustCompile("go (?:run|build|test) [^`\n]*? \\./([a-z][\\w/]*)")
	for file, text := range documents(t) {
		for _, m := range folder.FindAllStringSubmatch(text, -1) {
			_, err := os.Stat(filepath.Join(root, m[1]))
			assert.NoError(t, err, "%s: %s", file, m[0])
		}
	}
}

func TestDocs_LayoutHasEachPackage(t *testing.T) {
	layout := documents(t)["CONTRIBUTING.md"]
	for _, p := range packages(t) {
		if p.Production() && p.Path != "." {
			name := strings.TrimSuffix(p.Path, "/selftest")
			assert.Contains(t, layout, "\n| `"+name+"/` |", "the layout in CONTRIBUTING.md")
		}
	}
}

// Names such as forkspawn.Config in the guides are exported.
func TestDocs_NamesAreExported(t *testing.T) {
	exported := make(map[string][]string)
	for _, p := range packages(t) {
		if p.Public() {
			names, err := p.Names()
			require.NoError(t, err)
			exported[p.Name] = append(exported[p.Name], names...)
		}
	}
	qualified := regexp.MustCompile(`\b([a-z]+)\.([A-Z]\w*(?:\.[A-Z]\w*)?)`)
	for file, text := range documents(t) {
		if file == "CHANGELOG.md" || strings.HasPrefix(file, "docs/design/") {
			continue // they may name what has gone
		}
		for _, m := range qualified.FindAllStringSubmatch(text, -1) {
			if names, ours := exported[m[1]]; ours {
				assert.Contains(t, names, m[2], "%s names %s", file, m[0])
			}
		}
	}
}

//go:build unix

package libraries

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

var update = flag.Bool("update", false, "write the table into the guide")

// guide has the table.
const guide = "../../../../docs/guides/shared-table.md"

// children is the number of children of each template. Three values of 14 random bits
// are equal once in 268 million times.
const children = 3

func TestLibraries(t *testing.T) {
	if err := forkspawn.CheckForkserver(testkit.Context(t)); err != nil {
		t.Skip("children cannot be forked here:", err)
	}
	spawntest.NoLeaks(t)
	env := slices.Concat(os.Environ(), serve(t))
	t.Run("rows", func(t *testing.T) {
		for _, r := range rows {
			t.Run(r.library, func(t *testing.T) {
				t.Parallel()
				outcome, log := r.run(t, env)
				assert.Regexp(t, "(?s)^("+r.outcome+")$", outcome, "without the fix")
				assert.Contains(t, log, r.named)
				if r.fix.line != "" {
					outcome, _ = r.run(t, env, fixedEnv+"=1")
					assert.Equal(t, works, outcome, "with the fix: %s", r.fix.line)
				}
			})
		}
	})
	text := table(t)
	t.Log("\n" + text)
	page := testkit.ReadFile(t, guide)
	start, end := strings.Index(page, head), len(page)
	require.Positive(t, start, "the guide has the table")
	if n := strings.Index(page[start:], "\n\n"); n >= 0 {
		end = start + n + 1
	}
	if *update {
		require.NoError(t, os.WriteFile(guide, []byte(page[:start]+text+page[end:]), 0o600))
		return
	}
	assert.Equal(t, text, page[start:end], "the guide has another table; use -update")
}

// run forks the children of a row from one template. It returns their outcome, and what
// the Spawner has logged.
func (r row) run(t *testing.T, env []string, more ...string) (outcome, log string) {
	t.Helper()
	var logged testkit.Output
	ctx := testkit.Context(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{
		Method: forkspawn.MethodForkserver, WarmUp: r.library,
		Logger: slog.New(slog.NewTextHandler(&logged, nil)),
		Command: forkspawn.Command{
			Env: slices.Concat(env, more, []string{dirEnv + "=" + t.TempDir()})},
	})
	defer s.Close()
	if err := s.AwaitTemplate(ctx); err != nil {
		return err.Error(), logged.String()
	}
	var all []*forkspawn.Child
	for range children {
		child, err := s.Spawn(ctx, spawnspec.Spec{Entry: r.library})
		if err != nil {
			return err.Error(), logged.String()
		}
		all = append(all, child)
	}
	for _, child := range all { // the template is idle while they use the library
		if err := child.Send(ctx, "go"); err != nil {
			return err.Error(), logged.String()
		}
	}
	outcome = works
	same := true
	var answers [children]answer
	for i, child := range all {
		if err := child.Recv(ctx, &answers[i]); err != nil {
			return err.Error(), logged.String()
		}
		if answers[i].Err != "" {
			outcome = answers[i].Err
		}
		same = same && answers[i].Value != "" && answers[i].Value == answers[0].Value
	}
	if outcome == works && same {
		outcome = equal
	}
	t.Logf("outcome: %s; values: %q", outcome, answers)
	return outcome, logged.String()
}

// head is the first line of the table in the guide.
const head = "| library | in the children of a template | remedy |\n"

// table returns the table as it is in the guide.
func table(t *testing.T) string {
	text := testkit.ReadFile(t, "go.mod")
	versions := map[string]string{"": ""}
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) (\S+)$`).FindAllStringSubmatch(text, -1) {
		versions[m[1]] = " " + m[2]
	}
	var b strings.Builder
	b.WriteString(head + "|---|---|---|\n")
	for _, r := range rows {
		version, ok := versions[r.module]
		require.True(t, ok, "the version of %s", r.module)
		name, use, found := strings.Cut(r.library, ": ")
		if found {
			use = ": " + use
		}
		finding := r.finding
		if finding == "" {
			finding = r.outcome
		}
		fmt.Fprintf(&b, "| %s%s%s | %s | %s |\n", name, version, use, finding, r.fix.line)
	}
	// names of Go are in quotes in the rows, because a raw string cannot have backquotes
	return regexp.MustCompile(`'([^' ][^']*)'`).ReplaceAllString(b.String(), "`$1`")
}

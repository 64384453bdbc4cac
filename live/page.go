package live

import (
	"bytes"
	_ "embed" // for the page
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/inspect"
)

//go:embed page.html
var pageText string

// pages is parsed when somebody looks, because each child has this package, too.
var pages = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("page").Parse(pageText))
})

// page is the data of the page.
type page struct {
	Title   string
	Summary string
	At      string
	Rows    []template.HTML
}

// row is a line of the table, as texts. Two rows look the same if they are equal.
type row struct {
	Key   string // unique in the table
	ID    string // of the process
	Level int
	Depth int // of the indent, which is bounded
	Name  string
	State string
	PID   string

	Entry, Method                                       string
	Total, Launch, Runtime, Init, Connect, Hello, Ready string

	Up, CPU, Memory, Threads, Goroutines string

	Restarts, Restarted string
	Calls, CallList     string
	Note, Exit, Stderr  string
	Spares              string
	Ask                 string // in paths; empty for a process that cannot be asked
	Stop, Restart       bool
}

// deepest is the last level with an indent of its own.
const deepest = 9

// newRow returns the row of a process.
func newRow(p *inspect.Process, mayAct bool) row {
	r := row{
		ID: p.ID, Level: p.Depth + 1, Depth: min(p.Depth, deepest), Name: p.Name, State: p.State,
		Entry: p.Entry, Method: p.Method, Up: coarse(p.Uptime), CPU: short(p.CPU),
		PID: number(p.PID), Threads: number(p.Threads), Goroutines: number(p.Goroutines),
		Restarts: number(p.Restarts), Restarted: p.Restarted, Exit: p.Exit, Stderr: p.Stderr,
	}
	if p.Memory > 0 {
		r.Memory = fmt.Sprintf("%.1f MB", float64(p.Memory)/1e6)
	}
	if p.Phase != "" {
		r.State += " (" + p.Phase + ")"
	}
	if p.Exit == "" {
		r.Note = p.Silent
	}
	if b := p.Boot; b != nil {
		r.Total, r.Launch, r.Runtime, r.Init = short(b.Total), short(b.Launch), short(b.Runtime),
			short(b.Init)
		r.Connect, r.Hello, r.Ready = short(b.Connect), short(b.Hello), short(b.Ready)
		if b.Spare {
			r.Launch = "spare"
		}
	}
	if p.SparesWanted > 0 {
		r.Spares = fmt.Sprintf("%d of %d spares wait", p.Spares, p.SparesWanted)
	}
	r.Calls, r.CallList = callTexts(p.Calls)
	if p.Depth == 0 {
		r.Ask = root
	} else if p.Silent == "" && p.PID > 0 {
		r.Ask = p.ID
	}
	if mayAct && p.Depth == 1 {
		r.Stop, r.Restart = p.Stop, p.Restart
	}
	return r
}

// callTexts returns a short text and a list of open calls.
func callTexts(calls []inspect.Call) (short, list string) {
	if len(calls) == 0 {
		return "", ""
	}
	var b strings.Builder
	for _, c := range calls {
		way := "made"
		if c.Incoming {
			way = "served"
		}
		fmt.Fprintf(&b, "%s, %s for %s or more, %d bytes sent, %d received, credit of %d",
			c.Method, way, coarse(c.Age), c.Sent, c.Received, c.Credit)
		if c.TraceID != "" {
			b.WriteString(", trace " + c.TraceID)
		}
		b.WriteByte('\n')
	}
	return strconv.Itoa(len(calls)), b.String()
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// short returns a duration with three digits.
func short(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", d.Seconds()*1000)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// coarse returns a duration that seldom changes.
func coarse(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// rows returns the rows of a tree.
func (h *handler) rows(tree *inspect.Snapshot) []row {
	rows := make([]row, len(tree.Processes))
	used := make(map[string]bool, len(rows))
	for i := range tree.Processes {
		p := &tree.Processes[i]
		r := newRow(p, h.cfg.Authorize != nil)
		r.Key = "p-" + p.ID
		if p.ID == "" {
			r.Key = fmt.Sprintf("p-%s-%d-%s", p.State, p.PID, p.Name)
		}
		for used[r.Key] {
			r.Key += "+"
		}
		used[r.Key] = true
		rows[i] = r
	}
	return rows
}

// html returns a row as HTML.
func (r *row) html() template.HTML {
	var b bytes.Buffer
	if err := pages().ExecuteTemplate(&b, "row", r); err != nil {
		return template.HTML(template.HTMLEscapeString(err.Error()))
	}
	return template.HTML(b.String()) //nolint:gosec // the template has escaped it
}

// summary says how many processes there are, and how many are silent.
func summary(tree *inspect.Snapshot) string {
	silent := 0
	for _, p := range tree.Processes {
		if p.Silent != "" && p.Exit == "" && p.State != "spare" && p.State != "template" {
			silent++
		}
	}
	return fmt.Sprintf("%s, %d of them silent", count(len(tree.Processes), "process"), silent)
}

// page answers with the page.
func (h *handler) page(w http.ResponseWriter, tree *inspect.Snapshot) {
	data := page{Title: tree.Processes[0].Name, Summary: summary(tree),
		At: tree.At.Format(time.TimeOnly)}
	for _, r := range h.rows(tree) {
		data.Rows = append(data.Rows, r.html())
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	pages().ExecuteTemplate(w, "page", data)
}

// count returns a number with its noun.
func count(n int, noun string) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	switch {
	case n == 1:
		return text + " " + noun
	case strings.HasSuffix(noun, "s"):
		return text + " " + noun + "es"
	}
	return text + " " + noun + "s"
}

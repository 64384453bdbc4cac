// Warmtable has children answer questions from a large table: executed ones, of which each loads it, and ones that are forked from a
// template that has loaded it before. It prints how long the first answer took, and all, and the memory.
//
//	CGO_ENABLED=0 go run ./examples/warmtable [-method exec,forkserver] [-children N] [-size MB] [-questions N] [-pointers] [-fallback]
//
// Read child.go first, which has the warm-up and the child, then main.go; dictionary.go is the table, and memory.go reads what a
// process takes. The columns:
//
//   - template: until there is one, which has tried itself and loaded the table. Children that are executed need none.
//   - first: from the call of Spawn until the first answer, while there is no other child.
//   - all: from the same call until the last answer. The other children are spawned one after the other, and answer side by side.
//   - child: the median child's proportional set size (PSS): memory that k processes share counts a k-th in each of them. It is read
//     when all have answered, and again when each has collected its garbage once more.
//   - together: that of all children and the template at the same moment, and how many times the table it is.
//
// The table is a dictionary that is made up, with no pointers in it: a slice of bytes, and one of offsets. That matters. Forked
// children share its memory with the template until one writes to it. A lookup does not, but a collection marks what it finds: with
// -pointers, which has the same dictionary as a map of strings, one collection makes much of it each child's own. (Records in a file
// that is mapped into memory are shared by executed children too. A template is for what takes time to make, or cannot be mapped.)
//
// The parent has no table. It knows by itself what the answers must be, and compares each.
//
// When the children could take more than half of the memory that is available, there are fewer, and a line says so. The program
// exits with 2 when it was called wrongly, and with 1 when something failed, an answer was wrong, or children cannot be forked here: the
// error says why, and what helps. With -fallback they are executed then, as the first column tells.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func main() {
	forkspawn.RegisterWarmUp(warmUp, load)     // what a template of this program can do once for all children
	forkspawn.Register(entry, answerQuestions) // what a child can be asked to run
	forkspawn.Init()                           // in a child this runs the entry, in a template it warms up and forks, and it does not return

	var o options
	methods := flag.String("method", "exec,forkserver", "start `methods`, exec and forkserver, with commas between")
	size := flag.Int("size", 200, "size of the table in `MB` of 1,000,000 bytes, 4,000 at most")
	flag.IntVar(&o.children, "children", 20, "number of child `processes`")
	flag.IntVar(&o.questions, "questions", 1000, "`number` of questions to each child")
	flag.BoolVar(&o.pointers, "pointers", false, "have the table as a map of strings")
	flag.BoolVar(&o.fallback, "fallback", false, "execute the children of method forkserver where they cannot be forked")
	flag.Parse()
	o.size = *size * megabyte
	list := strings.Split(*methods, ",")
	if flag.NArg() > 0 || o.children < 1 || o.questions < 1 || *size < 1 || *size > maxSize/megabyte || slices.Contains(list, forkspawn.MethodInProcess) {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(os.Stdout, list, o); err != nil {
		fmt.Fprintln(os.Stderr, "warmtable:", err)
		os.Exit(1)
	}
}

const megabyte = 1_000_000

type options struct {
	size, children, questions int
	pointers, fallback        bool
}

// table says which one to load, to children and template.
func (o options) table() string {
	if o.pointers {
		return fmt.Sprint(o.size, " pointers")
	}
	return fmt.Sprint(o.size)
}

func run(out io.Writer, methods []string, o options) error {
	if slices.Contains(methods, forkspawn.MethodForkserver) && !o.fallback {
		if err := forkspawn.ForkserverSupport(); err != nil { // now, and not after minutes with another method
			return err
		}
	}
	table := extentOf(o.size)
	fmt.Fprintf(out, "a table of %d records, %.0f MB; %d questions to each child\n", table.records, megabytes(table.bytes), o.questions)
	var rows []row
	for _, method := range methods {
		n, err := affordable(method, o)
		if err != nil {
			return err
		}
		if n < o.children {
			fmt.Fprintf(out, "%s: %d children and not %d, which could take more than half of the memory that is available\n", method, n, o.children)
		}
		of := o
		of.children = n
		r, err := measure(method, of)
		if err != nil {
			return err
		}
		rows = append(rows, r)
	}
	fmt.Fprintln(out, "all answers are right")
	return printTable(out, rows, table.bytes)
}

// row is what a method gave. Memory is in bytes, and 0 where the system does not tell.
type row struct {
	method              string // by which the children were really started
	children            int
	template            time.Duration
	first, all          time.Duration
	answered, collected memory
}

// memory is that of the median child, and of all children with their template.
type memory struct{ child, together int }

// measure has one method's children start, answer, and end.
func measure(method string, o options) (r row, err error) {
	cfg := forkspawn.Config{
		Method:             method,
		ForkserverFallback: o.fallback,
		Command:            forkspawn.Command{Env: append(os.Environ(), tableEnv+"="+o.table())},
		Logger:             slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if method == forkspawn.MethodForkserver {
		cfg.WarmUp = warmUp
	}
	spawner, err := forkspawn.New(cfg)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, spawner.Close()) }() // no child outlives it, and neither does the template
	ctx, stop := spawner.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	began := time.Now()
	if err := spawner.Warm(ctx); err != nil { // else the first Spawn waits for the template
		return r, err
	}
	r.template = time.Since(began)

	began = time.Now()
	children, answered, err := interrogate(ctx, spawner, o)
	if err != nil {
		return r, err
	}
	r.first, r.all = answered.Sub(began), time.Since(began)
	r.method, r.children = children[0].Spec().Method, len(children)
	if r.answered, err = memoryOf(ctx, children); err != nil {
		return r, err
	}
	for _, child := range children {
		if _, err := ask(ctx, child, question{Collect: true}); err != nil {
			return r, err
		}
	}
	r.collected, err = memoryOf(ctx, children)
	return r, err
}

// interrogate spawns the children, asks each its questions, and returns them with the time of the first answer. The first that
// fails ends it.
func interrogate(ctx context.Context, spawner *forkspawn.Spawner, o options) (children []*forkspawn.Child, first time.Time, err error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	records := extentOf(o.size).records
	var asking sync.WaitGroup
	for i := range o.children {
		child, err := spawner.Spawn(ctx, spawnspec.Spec{Name: fmt.Sprintf("%s-%d", entry, i+1), Entry: entry})
		if err != nil {
			fail(err)
			break
		}
		children = append(children, child)
		if i == 0 {
			if err := check(ctx, child, 0, records); err != nil {
				return nil, first, err
			}
			first = time.Now()
		}
		asking.Go(func() {
			for n := range o.questions {
				if err := check(ctx, child, i*o.questions+n, records); err != nil {
					fail(err)
					return
				}
			}
		})
	}
	asking.Wait()
	return children, first, context.Cause(ctx)
}

// check asks one question, and compares the answer with the truth. Every tenth is about a word that there is not.
func check(ctx context.Context, child *forkspawn.Child, number, records int) error {
	record := int(mix(uint64(number)) % uint64(records))
	word, want := wordOf(record), answer{Known: true, Meaning: meaningOf(record)}
	if number%10 == 9 {
		word, want = missingAfter(record), answer{}
	}
	got, err := ask(ctx, child, question{Word: word})
	if err != nil {
		return err
	}
	if got.Known != want.Known || got.Meaning != want.Meaning {
		return fmt.Errorf("%s answers %+v to %q; it is %+v", child.Name(), got, word, want)
	}
	return nil
}

func ask(ctx context.Context, child *forkspawn.Child, q question) (a answer, err error) {
	if err := child.Send(ctx, q); err != nil {
		return a, err
	}
	err = child.Recv(ctx, &a) // a *forkspawn.ExitError, if it has died: exit status, last lines of stderr
	return a, err
}

// memoryOf reads what children take, and their template, of which they tell.
func memoryOf(ctx context.Context, children []*forkspawn.Child) (m memory, err error) {
	a, err := ask(ctx, children[0], question{})
	if err != nil {
		return m, err
	}
	var each []int
	for _, child := range children {
		n, err := proportional(child.PID())
		if err != nil {
			return m, err
		}
		each = append(each, n)
		m.together += n
	}
	slices.Sort(each)
	m.child = each[len(each)/2]
	if a.Loader != children[0].PID() {
		n, err := proportional(a.Loader)
		if err != nil {
			return m, err
		}
		m.together += n
	}
	return m, nil
}

// affordable returns how many children there can be with what each may take for itself.
func affordable(method string, o options) (int, error) {
	free, err := available()
	if err != nil || free == 0 {
		return o.children, err
	}
	each := o.size + o.size/10 + 10*megabyte
	if o.pointers {
		each *= 3
	}
	if method == forkspawn.MethodForkserver && !o.fallback {
		each = 10 * megabyte
		if o.pointers {
			each += o.size * 3 / 2
		}
	}
	return min(o.children, max(1, free/2/each)), nil
}

func printTable(w io.Writer, rows []row, table int) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\t\ttemplate\tfirst\tall\tanswered: child\ttogether\t\tcollected: child\ttogether\t\t")
	fmt.Fprintln(tw, "method\tchildren\tms\tms\tms\tMB\tMB\tx table\tMB\tMB\tx table\t")
	for _, r := range rows {
		fmt.Fprintf(tw, "%s\t%d\t%.0f\t%.1f\t%.0f\t", r.method, r.children, millis(r.template), millis(r.first), millis(r.all))
		for _, m := range []memory{r.answered, r.collected} {
			if m.together == 0 { // the system does not tell
				fmt.Fprint(tw, "-\t-\t-\t")
				continue
			}
			fmt.Fprintf(tw, "%.1f\t%.0f\t%.2f\t", megabytes(m.child), megabytes(m.together), float64(m.together)/float64(table))
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

func millis(d time.Duration) float64 { return d.Seconds() * 1000 }

func megabytes(n int) float64 { return float64(n) / megabyte }

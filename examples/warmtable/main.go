// Warmtable compares children that load a large table with children that share
// one. It spawns children by exec. Then it forks children from a template that
// has loaded the table before. Then it spawns children by exec that map a Blob with
// the table. It prints the times and the memory of each.
//
//	CGO_ENABLED=0 go run ./examples/warmtable [-method exec,forkserver,blob] [-children N]
//		[-size MB] [-questions N] [-pointers] [-fallback]
//
// Read child.go first: it has the warm-up and the entry of a child. main.go is
// the parent, dictionary.go the table, and memory.go measures the memory of a
// process. The columns of the output:
//
//   - template: the time until the template is ready, or the Blob is built.
//     Executed children have none.
//   - first: the time from the first call of Spawn to the first answer.
//   - all: the time from the same call to the last answer. The parent spawns the
//     children one after the other, and they answer concurrently.
//   - child: the median of the children's memory (PSS). A page that k processes
//     share counts as 1/k page in each. It is measured after all answers, and
//     again after another garbage collection in each child.
//   - together: the memory of all children and the template, in MB and as a
//     multiple of the table.
//
// Forked children share the memory of the template until one of them writes to
// it. A lookup does not write, but a garbage collection marks each object that a
// pointer refers to. So the table is a slice of bytes and a slice of offsets,
// without pointers. With -pointers it is a map of strings, and one collection
// copies most of it into each child.
//
// A Blob is shared by executed children, too, and by all other programs. A template is
// for data that is no slice of bytes. With -pointers there is no Blob.
//
// The parent has no table. It computes the right answers and compares them.
//
// If the children could take more than half of the available memory, the program
// spawns fewer and prints a line about it. The exit code is 1 if something has
// failed, if an answer was wrong, or if children cannot be forked here. With
// -fallback they are executed in that case, and the first column shows it. The
// exit code is 2 if the command line is wrong.
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

	"github.com/spawnwire/spawnwire/blob"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func main() {
	forkspawn.RegisterWarmUp(warmUp, load)     // runs once, in the template
	forkspawn.Register(entry, answerQuestions) // runs in each child
	forkspawn.Init()                           // in a child or template: does its work and exits

	var o options
	methods := flag.String("method", "exec,forkserver,blob",
		"comma-separated `methods`: exec, forkserver, or blob")
	size := flag.Int("size", 200, "size of the table in `MB` of 1,000,000 bytes, 4,000 at most")
	flag.IntVar(&o.children, "children", 20, "number of child `processes`")
	flag.IntVar(&o.questions, "questions", 1000, "`number` of questions to each child")
	flag.BoolVar(&o.pointers, "pointers", false, "make the table a map of strings")
	flag.BoolVar(&o.fallback, "fallback", false, "execute the children if they cannot be forked")
	flag.Parse()
	o.size = *size * megabyte
	var list []forkspawn.Method
	for _, name := range strings.Split(*methods, ",") {
		if o.pointers && name == string(methodBlob) {
			continue
		}
		list = append(list, forkspawn.Method(name))
	}
	if flag.NArg() > 0 || o.children < 1 || o.questions < 1 || *size < 1 ||
		*size > maxSize/megabyte || slices.Contains(list, forkspawn.MethodInProcess) {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(os.Stdout, list, o); err != nil {
		fmt.Fprintln(os.Stderr, "warmtable:", err)
		os.Exit(1)
	}
}

const megabyte = 1_000_000

// methodBlob is exec with the table in a Blob.
const methodBlob forkspawn.Method = "blob"

type options struct {
	size, children, questions int
	pointers, fallback        bool
}

// table returns the value of tableEnv.
func (o options) table() string {
	if o.pointers {
		return fmt.Sprint(o.size, " pointers")
	}
	return fmt.Sprint(o.size)
}

func run(out io.Writer, methods []forkspawn.Method, o options) error {
	if slices.Contains(methods, forkspawn.MethodForkserver) && !o.fallback {
		// Fail now, and not after minutes with another method.
		if err := forkspawn.CheckForkserver(context.Background()); err != nil {
			return err
		}
	}
	table := extentOf(o.size)
	fmt.Fprintf(out, "a table of %d records, %.0f MB; %d questions to each child\n",
		table.records, megabytes(table.bytes), o.questions)
	var rows []row
	for _, method := range methods {
		n, err := affordable(method, o)
		if err != nil {
			return err
		}
		if n < o.children {
			fmt.Fprintf(out, "%s: %d children and not %d, "+
				"which could take more than half of the memory that is available\n",
				method, n, o.children)
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

// row has the results of one method. Memory is in bytes, and 0 if it is unknown.
type row struct {
	method              string // differs from the requested one after a fallback
	children            int
	template            time.Duration
	first, all          time.Duration
	answered, collected memory
}

// memory is the memory of the median child and of all children with their
// template.
type memory struct{ child, together int }

// measure starts the children with one method, asks them, and stops them.
func measure(method forkspawn.Method, o options) (r row, err error) {
	cfg := forkspawn.Config{
		Method:             method,
		ForkserverFallback: o.fallback,
		Command:            forkspawn.Command{Env: append(os.Environ(), tableEnv+"="+o.table())},
		Logger: slog.New(slog.NewTextHandler(os.Stderr,
			&slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	began := time.Now()
	switch method {
	case forkspawn.MethodForkserver:
		cfg.WarmUp = warmUp
	case methodBlob:
		table := extentOf(o.size)
		b, err := blob.Build(blobName, table.bytes, func(b []byte) error {
			table.fill(b)
			return nil
		})
		if err != nil {
			return r, err
		}
		defer b.Close()
		cfg.Method = forkspawn.MethodExec
		cfg.Command.Files = map[string]*os.File{blobName: b.File()}
	}
	spawner, err := forkspawn.New(cfg)
	if err != nil {
		return r, err
	}
	// Close stops the children and the template.
	defer func() { err = errors.Join(err, spawner.Close()) }()
	ctx, stop := spawner.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	// otherwise the first Spawn waits for the template
	if err := spawner.AwaitTemplate(ctx); err != nil {
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
	if method == methodBlob {
		r.method = string(method)
	}
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

// interrogate spawns the children and asks each all its questions. It returns
// the children and the time of the first answer. The first failure ends it.
func interrogate(ctx context.Context, spawner *forkspawn.Spawner,
	o options) (children []*forkspawn.Child, first time.Time, err error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	records := extentOf(o.size).records
	var asking sync.WaitGroup
	for i := range o.children {
		child, err := spawner.Spawn(ctx,
			spawnspec.Spec{Name: fmt.Sprintf("%s-%d", entry, i+1), Entry: entry, Args: o.size})
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

// check asks one question and compares the answer. Every tenth question is about
// a missing word.
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
	err = child.Recv(ctx, &a) // a *forkspawn.ExitError if the child has died
	return a, err
}

// memoryOf measures the memory of the children and their template. The first
// child answers with the pid of the template.
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

// affordable returns the number of children that fit into half of the available
// memory.
func affordable(method forkspawn.Method, o options) (int, error) {
	free, err := available()
	if err != nil || free == 0 {
		return o.children, err
	}
	each := o.size + o.size/10 + 10*megabyte
	if o.pointers {
		each *= 3
	}
	if method == methodBlob || method == forkspawn.MethodForkserver && !o.fallback {
		each = 10 * megabyte
		if o.pointers {
			each += o.size * 3 / 2
		}
	}
	return min(o.children, max(1, free/2/each)), nil
}

func printTable(w io.Writer, rows []row, table int) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw,
		"\t\ttemplate\tfirst\tall\tanswered: child\ttogether\t\tcollected: child\ttogether\t\t")
	fmt.Fprintln(tw, "method\tchildren\tms\tms\tms\tMB\tMB\tx table\tMB\tMB\tx table\t")
	for _, r := range rows {
		fmt.Fprintf(tw, "%s\t%d\t%.0f\t%.1f\t%.0f\t", r.method, r.children, millis(r.template),
			millis(r.first), millis(r.all))
		for _, m := range []memory{r.answered, r.collected} {
			if m.together == 0 { // unknown
				fmt.Fprint(tw, "-\t-\t-\t")
				continue
			}
			fmt.Fprintf(tw, "%.1f\t%.0f\t%.2f\t", megabytes(m.child), megabytes(m.together),
				float64(m.together)/float64(table))
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

func millis(d time.Duration) float64 { return d.Seconds() * 1000 }

func megabytes(n int) float64 { return float64(n) / megabyte }

//go:build unix

package libraries

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/allegro/bigcache/v3"
	"github.com/blevesearch/bleve/v2"
	"github.com/dgraph-io/ristretto/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/text/collate"
	"golang.org/x/text/language"
)

// memoryRows are libraries without files or connections.
func memoryRows() []row {
	return []row{
		usedTwice("regexp", "", func() error {
			return same(expression.ReplaceAllString("key=value", "$2=$1"), "value=key")
		}),
		usedTwice("html/template", "", func() error {
			var b strings.Builder
			err := page.Execute(&b, "<&>")
			return errors.Join(err, same(b.String(), `<a title="&lt;&amp;&gt;">&lt;&amp;&gt;</a>`))
		}),
		usedTwice("embed", "", func() error {
			b, err := files.ReadFile("go.mod")
			return errors.Join(err, same(strings.Fields(string(b))[0], "module"))
		}),
		usedTwice("image/png, image/jpeg", "", codeImages),
		usedTwice("klauspost/compress: zstd", "github.com/klauspost/compress", compress),
		usedTwice("golang.org/x/text: collate, language", "golang.org/x/text", sortWords),
		cobraRow(), lruRow(), expirableRow(), ristrettoRow(), bigcacheRow(),
		errgroupRow(), bleveRow(), storedBleveRow(),
	}
}

// usedTwice is a row for what is used in the same way in the template and in a child.
func usedTwice(library, module string, use func() error) row {
	return row{library: library, module: module, outcome: works, warmUp: use,
		use: func(context.Context) (string, error) { return "", use() }}
}

func same[T comparable](got, want T) error {
	if got != want {
		return fmt.Errorf("%v is not %v", got, want)
	}
	return nil
}

var (
	expression = regexp.MustCompile(`^(\w+)=(\w+)$`)
	page       = template.Must(template.New("page").Parse(`<a title="{{.}}">{{.}}</a>`))

	//go:embed go.mod
	files embed.FS
)

func codeImages() error {
	picture := image.NewRGBA(image.Rect(0, 0, 64, 64))
	picture.Set(1, 2, color.White)
	for _, codec := range []struct {
		encode func(io.Writer, image.Image) error
		decode func(io.Reader) (image.Image, error)
	}{
		{png.Encode, png.Decode},
		{func(w io.Writer, m image.Image) error { return jpeg.Encode(w, m, nil) }, jpeg.Decode},
	} {
		var b bytes.Buffer
		if err := codec.encode(&b, picture); err != nil {
			return err
		}
		decoded, err := codec.decode(&b)
		if err != nil {
			return err
		}
		if err := same(decoded.Bounds(), picture.Bounds()); err != nil {
			return err
		}
	}
	return nil
}

// A coder has goroutines, and is made once.
var (
	encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(4))
	decoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(4))
)

func compress() error {
	text := bytes.Repeat([]byte("a text "), 1<<17)
	var b bytes.Buffer
	encoder.Reset(&b)
	if _, err := encoder.Write(text); err != nil {
		return err
	}
	if err := encoder.Close(); err != nil {
		return err
	}
	if err := decoder.Reset(&b); err != nil {
		return err
	}
	got, err := io.ReadAll(decoder)
	return errors.Join(err, same(string(got), string(text)))
}

var (
	swedish = collate.New(language.Swedish)
	matcher = language.NewMatcher([]language.Tag{language.English, language.Swedish})
)

func sortWords() error {
	words := []string{"öl", "zon", "ål", "al"}
	swedish.SortStrings(words)
	if want := []string{"al", "zon", "ål", "öl"}; !slices.Equal(words, want) {
		return fmt.Errorf("%q is not %q", words, want)
	}
	tag, _, _ := matcher.Match(language.MustParse("sv-FI"))
	base, _ := tag.Base()
	return same(base.String(), "sv")
}

func cobraRow() row {
	var got string
	root := &cobra.Command{Use: "root"}
	sub := &cobra.Command{Use: "sub", RunE: func(cmd *cobra.Command, args []string) error {
		flag, err := cmd.Flags().GetString("flag")
		got = flag + args[0]
		return err
	}}
	sub.Flags().String("flag", "", "")
	root.AddCommand(sub)
	return usedTwice("spf13/cobra", "github.com/spf13/cobra", func() error {
		pid := fmt.Sprint(os.Getpid())
		root.SetArgs([]string{"sub", "--flag", "a", pid})
		return errors.Join(root.Execute(), same(got, "a"+pid))
	})
}

func lruRow() row {
	cache, _ := lru.New[string, int](2) // the error is that of a size of 0
	return row{
		library: "hashicorp/golang-lru", module: "github.com/hashicorp/golang-lru/v2",
		outcome: works,
		warmUp: func() error {
			cache.Add("warm", 1)
			return nil
		},
		use: func(context.Context) (string, error) {
			n, _ := cache.Get("warm")
			cache.Add("a", 2)
			cache.Add("b", 3)
			return "", errors.Join(same(n, 1), same(cache.Contains("warm"), false))
		},
	}
}

func expirableRow() row {
	var cache *expirable.LRU[string, int]
	return row{
		library: "hashicorp/golang-lru: expirable", module: "github.com/hashicorp/golang-lru/v2",
		outcome: works, finding: "works: its goroutine runs in each child",
		warmUp: func() error {
			cache = expirable.NewLRU[string, int](10, nil, 200*time.Millisecond)
			cache.Add("warm", 1)
			return nil
		},
		use: func(context.Context) (string, error) {
			cache.Add("own", 1)
			return "", eventually("the cache is empty", func() bool { return cache.Len() == 0 })
		},
	}
}

// eventually waits until cond is true.
func eventually(state string, cond func() bool) error {
	for deadline := time.Now().Add(hang / 2); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("never: %s", state)
		}
	}
	return nil
}

func ristrettoRow() row {
	var cache *ristretto.Cache[string, int]
	set := func(key string) error {
		if !cache.Set(key, len(key), 1) {
			return fmt.Errorf("%q is dropped", key)
		}
		cache.Wait()
		n, _ := cache.Get(key)
		return same(n, len(key))
	}
	return row{
		library: "dgraph-io/ristretto", module: "github.com/dgraph-io/ristretto/v2",
		outcome: works, finding: "works: its goroutine runs in each child",
		warmUp: func() (err error) {
			cache, err = ristretto.NewCache(&ristretto.Config[string, int]{
				NumCounters: 1000, MaxCost: 100, BufferItems: 64})
			return errors.Join(err, set("warm"))
		},
		use: func(context.Context) (string, error) {
			n, _ := cache.Get("warm")
			return "", errors.Join(same(n, len("warm")), set("own"))
		},
	}
}

func bigcacheRow() row {
	var cache *bigcache.BigCache
	return row{
		library: "allegro/bigcache", module: "github.com/allegro/bigcache/v3", outcome: works,
		finding: "works: its goroutine runs in each child",
		warmUp: func() (err error) {
			cfg := bigcache.DefaultConfig(time.Second)
			cfg.Shards, cfg.MaxEntriesInWindow, cfg.Verbose = 16, 100, false
			if cache, err = bigcache.New(context.Background(), cfg); err != nil {
				return err
			}
			return cache.Set("warm", []byte("value"))
		},
		use: func(context.Context) (string, error) {
			if err := cache.Set("own", []byte("value")); err != nil {
				return "", err
			}
			b, err := cache.Get("own")
			if err = errors.Join(err, same(string(b), "value")); err != nil {
				return "", err
			}
			return "", eventually("the cache is empty", func() bool { return cache.Len() == 0 })
		},
	}
}

func errgroupRow() row {
	var group errgroup.Group
	numbers := make(chan int)
	return row{
		library: "golang.org/x/sync: an errgroup with goroutines", module: "golang.org/x/sync",
		outcome: works, finding: "works: its goroutines run in each child",
		warmUp: func() error {
			for range 4 {
				group.Go(func() error { return same(<-numbers, 1) })
			}
			return nil
		},
		use: func(context.Context) (string, error) {
			for range 4 {
				numbers <- 1
			}
			return "", group.Wait()
		},
	}
}

type document struct{ Text string }

// search looks for documents with the word.
func search(index bleve.Index, word string) error {
	found, err := index.Search(bleve.NewSearchRequest(bleve.NewMatchQuery(word)))
	if err != nil {
		return err
	}
	return same(found.Total, 1)
}

func bleveRow() row {
	var index bleve.Index
	return row{
		library: "blevesearch/bleve: in memory", module: "github.com/blevesearch/bleve/v2",
		outcome: works, finding: "works: each child has its own copy",
		warmUp: func() (err error) {
			if index, err = bleve.NewMemOnly(bleve.NewIndexMapping()); err != nil {
				return err
			}
			return errors.Join(index.Index("1", document{"a warm text"}), search(index, "warm"))
		},
		use: func(context.Context) (string, error) {
			return "", errors.Join(search(index, "warm"),
				index.Index("2", document{"a new text"}), search(index, "new"))
		},
	}
}

func storedBleveRow() row {
	var index bleve.Index
	warmUp := func() (err error) {
		if index, err = bleve.New(path("index"), bleve.NewIndexMapping()); err != nil {
			return err
		}
		return errors.Join(index.Index("1", document{"a warm text"}), search(index, "warm"))
	}
	return row{
		library: "blevesearch/bleve: in files", module: "github.com/blevesearch/bleve/v2",
		// Its goroutines find the dead file at some time, and one can try again and again.
		outcome: `(write .*: illegal seek|file size too small 0)(\nspins)?`, named: "root.bolt",
		finding: "searches work, writes are an error: 'illegal seek' or 'file size too small'; " +
			"a goroutine of the library can spin",
		warmUp: warmUp,
		fix: fix{line: "'bleve.OpenUsing' with 'read_only' in the warm-up",
			warmUp: func() (err error) {
				if err := errors.Join(warmUp(), index.Close()); err != nil {
					return err
				}
				index, err = bleve.OpenUsing(path("index"), map[string]any{"read_only": true})
				return err
			}},
		use: func(context.Context) (string, error) {
			if err := search(index, "warm"); err != nil || fixed() {
				return "", err
			}
			return "", errors.Join(index.Index("2", document{"a new text"}), search(index, "new"))
		},
	}
}

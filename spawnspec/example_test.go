package spawnspec_test

import (
	"errors"
	"fmt"
	"log"
	"log/slog"

	"github.com/spawnwire/spawnwire/spawnspec"
)

type Resize struct {
	Width, Height int
	Format        string
}

// A spawner encodes a Spec in the parent, and the child decodes it.
func Example() {
	// In the parent. Method and Depth are the spawner's work.
	data, err := spawnspec.Marshal(&spawnspec.Spec{
		Name:     "resize-1",
		Entry:    "resize",
		Args:     Resize{640, 480, "webp"},
		LogLevel: slog.LevelDebug,
		Method:   "exec",
		Depth:    1,
	})
	if err != nil {
		log.Fatal(err)
	}

	// In the child.
	spec, err := spawnspec.Unmarshal(data)
	if err != nil {
		log.Fatal(err)
	}
	var args Resize
	if err := spec.DecodeArgs(&args); err != nil {
		log.Fatal(err)
	}
	fmt.Println(spec.Name, "runs", spec.Entry, "and logs", spec.LogLevel)
	fmt.Printf("%+v\n", args)
	// Output:
	// resize-1 runs resize and logs DEBUG
	// {Width:640 Height:480 Format:webp}
}

func ExampleSpec() {
	spec := spawnspec.Spec{
		Name:  "resize-1",
		Entry: "resize",
		Args:  Resize{640, 480, "webp"},
		Dir:   "/var/lib/gallery",
	}
	fmt.Println(spec.Validate())
	// Output: <nil>
}

// An entry can be tested without a child: the Spec gives it the same arguments.
func ExampleSpec_DecodeArgs() {
	resize := func(spec *spawnspec.Spec) {
		args := Resize{Format: "png"} // the default
		if err := spec.DecodeArgs(&args); err != nil && !errors.Is(err, spawnspec.ErrNoArgs) {
			log.Fatal(err)
		}
		fmt.Printf("%+v\n", args)
	}
	resize(&spawnspec.Spec{Entry: "resize", Args: map[string]int{"Width": 640}})
	resize(&spawnspec.Spec{Entry: "resize"})
	// Output:
	// {Width:640 Height:0 Format:png}
	// {Width:0 Height:0 Format:png}
}

func ExampleSpec_Validate() {
	spec := spawnspec.Spec{Entry: "resize", Dir: "gallery"}
	err := spec.Validate()
	fmt.Println(err)

	var fieldErr *spawnspec.FieldError
	if errors.As(err, &fieldErr) {
		fmt.Println(fieldErr.Field)
	}
	// Output:
	// spawnspec: field "dir": "gallery" is not absolute
	// dir
}

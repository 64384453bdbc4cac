package spawnspec_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func Example() {
	type Resize struct {
		Width, Height int
		Format        string
	}

	// In the parent. The last three fields are the spawner's work.
	data, err := spawnspec.Marshal(&spawnspec.Spec{
		Name:   "resize-1",
		Entry:  "resize",
		Args:   Resize{640, 480, "webp"},
		Vars:   map[string]any{"quality": 80},
		Bind:   []transport.Addr{{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}},
		Method: "exec",
		Depth:  1,
		Parent: spawnspec.Identity{ID: "p-1", Name: "gallery", PID: 4711},
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
	fmt.Println(spec.Name, "runs", spec.Entry, "for", spec.Parent.Name)
	fmt.Printf("%+v\n", args)
	fmt.Println(spec.Vars["quality"], spec.Bind[0])
	// Output:
	// resize-1 runs resize for gallery
	// {Width:640 Height:480 Format:webp}
	// 80 tcp://127.0.0.1:0
}

func ExampleSpec_Validate() {
	spec := spawnspec.Spec{
		Entry: "resize",
		Bind: []transport.Addr{
			{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"},
			{Scheme: transport.SchemeTCP, Target: "127.0.0.1"},
		},
	}
	err := spec.Validate()
	fmt.Println(err)

	var fieldErr *spawnspec.FieldError
	if errors.As(err, &fieldErr) {
		fmt.Println(fieldErr.Field)
	}
	// Output:
	// spawnspec: field "bind[1]": transport: address "tcp://127.0.0.1": "127.0.0.1" is not host:port; write tcp://127.0.0.1:7000 or tcp://[::1]:7000
	// bind[1]
}

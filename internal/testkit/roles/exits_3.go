//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"
)

// exits3 exits before it connects.
func exits3(context.Context) error {
	fmt.Fprintln(os.Stderr, "first line")
	fmt.Fprintln(os.Stderr, "cannot open the moon")
	os.Exit(3)
	return nil
}

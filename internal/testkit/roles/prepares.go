//go:build unix

package roles

import (
	"context"
	"errors"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// PreparesArgs is a task of the entry "prepares" before it is ready.
type PreparesArgs string

// The values of PreparesArgs.
const (
	Prepares      PreparesArgs = ""         // is ready, with the value "prepared"
	PreparesNil   PreparesArgs = "no value" // is ready, without a value
	PreparesTwice PreparesArgs = "twice"    // has a bad value first, and is ready twice
	FailsBefore   PreparesArgs = "fails"    // returns an error
	EndsBefore    PreparesArgs = "ends"     // returns nil
	PanicsBefore  PreparesArgs = "panics"
	HangsBefore   PreparesArgs = "hangs"
)

// prepares is an entry with a call of Ready. Then it is as echo.
func prepares(ctx context.Context, parent *forkspawn.Parent) error {
	var what PreparesArgs
	if err := parent.Spec().DecodeArgs(&what); err != nil {
		return err
	}
	var value any = "prepared"
	switch what {
	case FailsBefore:
		return errors.New("port 80 is taken")
	case EndsBefore:
		return nil
	case PanicsBefore:
		panic("no port at all")
	case HangsBefore:
		<-ctx.Done()
		return ctx.Err()
	case PreparesNil:
		value = nil
	case PreparesTwice:
		if err := parent.Ready(ctx, "a\xffb"); err == nil {
			return errors.New("it took a text that is not UTF-8")
		}
	}
	if err := parent.Ready(ctx, value); err != nil {
		return err
	}
	if err := parent.Ready(ctx, value); err == nil {
		return errors.New("a second ready worked")
	}
	return echo(ctx, parent)
}

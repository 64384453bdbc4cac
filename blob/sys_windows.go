package blob

import (
	"errors"
	"os"
)

func create(string) (*os.File, error)                   { return nil, errors.ErrUnsupported }
func write(*os.File, int, func([]byte) error) error     { return errors.ErrUnsupported }
func discard(*os.File)                                  {}
func seal(f *os.File) (*os.File, error)                 { return f, errors.ErrUnsupported }
func open(*os.File) (*Blob, error)                      { return nil, errors.ErrUnsupported }
func mapReadOnly(*os.File, int64) (b []byte, err error) { return nil, errors.ErrUnsupported }
func unmap([]byte) error                                { return errors.ErrUnsupported }

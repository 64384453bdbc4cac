// Package archtest limits the shape of the module. The limits are the imports
// of each package, the number of exported names, and the length of files and
// functions. The tests fail when the code breaks a limit.
//
// The command measure prints the figures:
//
//	go run ./internal/archtest/measure
package archtest

// Package access opens parts of this module's packages to each other, and keeps
// them from other modules. A public type has at most one door: a method with a
// parameter of type [Key], or a field of a type of this package.
package access

// Key is the parameter of the methods that only this module can call. The field
// keeps the literal struct{}{} of another module from being a Key.
type Key struct{ _ key }

type key struct{}

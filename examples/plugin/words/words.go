// Package words has the methods of the host and the plugins.
package words

import "github.com/spawnwire/spawnwire/call"

// Change is a method of a plugin: it returns another text.
var Change = call.NewUnary[string, string]("words.change")

// Owner is a method of the host, for plugins: whose text is it?
var Owner = call.NewUnary[struct{}, string]("words.owner")

// Split is a method of a plugin: it returns the words of a text, one after the other.
var Split = call.NewServerStream[string, string]("words.split")

// Wait is a method of a plugin: it waits until the host cancels it.
var Wait = call.NewUnary[struct{}, struct{}]("words.wait")

// Package roles has the child processes of the tests of package forkspawn. It
// is only for tests.
//
// Entries are functions of the test binary. A child runs one of them after
// Init. Programs are whole processes: the test binary plays one instead of
// running tests. Some use the library wrongly, or not at all.
//
// There is a file for each role, with the role's name.
package roles

// Package refork forks a running Go program without exec.
package refork

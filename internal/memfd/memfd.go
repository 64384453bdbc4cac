// Package memfd makes files in memory and seals them: memfd_create(2) and the seals of
// fcntl(2). Both exist on Linux only.
package memfd

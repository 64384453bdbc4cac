// Command smallest is the least that a Go program can be: what the others of bench/startcost are compared with.
package main

func main() {}

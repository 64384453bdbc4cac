// Smallest is an empty program, the baseline of bench/startcost.
package main

func main() {}

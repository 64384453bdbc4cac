// Command measure prints the number of exported names and of production lines
// of each package. Then it lists the files and functions over the limits of
// package archtest.
//
//	go run ./internal/archtest/measure        # figures
//	go run ./internal/archtest/measure -v     # and the names
package main

import (
	"flag"
	"fmt"
	"log"
	"strings"

	"github.com/spawnwire/spawnwire/internal/archtest"
)

func main() {
	log.SetFlags(0)
	verbose := flag.Bool("v", false, "print the exported names too")
	root := flag.String("root", ".", "folder of the root module")
	flag.Parse()
	packages, err := archtest.Packages(*root)
	if err != nil {
		log.Fatal(err)
	}
	var totalNames, totalLines int
	var long []string
	fmt.Println("names  lines  package")
	for _, p := range packages {
		if !p.Production() {
			continue
		}
		size, err := p.Measure()
		if err != nil {
			log.Fatal(err)
		}
		var names []string
		count := "-"
		if p.Public() {
			if names, err = p.Names(); err != nil {
				log.Fatal(err)
			}
			count = fmt.Sprint(len(names))
		}
		fmt.Printf("%5s %6d  %s\n", count, size.Lines, p.Path)
		if *verbose && len(names) > 0 {
			fmt.Println("       " + strings.Join(names, "\n       "))
		}
		totalNames += len(names)
		totalLines += size.Lines
		long = append(long, size.Long...)
	}
	fmt.Printf("%5d %6d  in all; the limits are %d and %d\n",
		totalNames, totalLines, archtest.MaxNames, archtest.MaxLines)
	for _, sentence := range long {
		fmt.Println(sentence)
	}
}

// Command stray is a faulty version of the agent: it crashes at once, or runs
// and never reports. The tests of updates build it.
package main

import (
	"fmt"
	"os"
	"time"
)

// version and how are set by the linker.
var version, how string

func main() {
	if len(os.Args) > 1 && os.Args[1] == "version" {
		fmt.Printf("azguest %s (stray)\n", version)
		return
	}
	if err := os.WriteFile("/var/tmp/stray-"+version, fmt.Appendf(nil, "%d", os.Getpid()), 0o600); err != nil {
		panic(err)
	}
	if how == "hang" {
		for {
			time.Sleep(time.Hour)
		}
	}
	panic("stray")
}

// Command stray is a version of the agent that goes wrong: it crashes at
// once, or runs and never reports. It is built by the tests of updates.
package main

import (
	"fmt"
	"os"
	"time"
)

// Set by the linker.
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

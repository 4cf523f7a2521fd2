// Command fabric emulates the platform around a virtual machine: it serves the
// endpoints that a guest agent uses, builds provisioning media and handler
// packages, and controls the machine through an ARM-shaped control plane.
//
// "fabric --help" is the manual.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/azguest/azguest/test/sandbox"
)

func main() {
	sandbox.Main() // fabric ext runs this program again as its sandbox
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	out := &checked{Writer: os.Stdout}
	err := root(os.Stdin, out, os.Stderr).ExecuteContext(ctx)
	stop()
	if err == nil {
		err = out.err
	}
	if ended, ok := errors.AsType[sandbox.Ended](err); ok {
		os.Exit(int(ended)) // the program that was run again has printed everything
	}
	if err != nil {
		if err.Error() != "" {
			fmt.Fprintln(os.Stderr, "fabric: "+err.Error())
		}
		if _, ok := errors.AsType[usageError](err); ok {
			os.Exit(2)
		}
		if _, ok := errors.AsType[notTried](err); ok {
			os.Exit(3)
		}
		os.Exit(1)
	}
}

// Command agentctl shows what the agent does, and why. It reads files only,
// so it works while the agent is dead.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/azguest/azguest/agent/ctl"
)

// version is set by scripts/build.
var version = "3.0.0.0"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := ctl.Main(ctx, os.Args[1:], ctl.System(version, os.Getenv))
	stop()
	os.Exit(code)
}

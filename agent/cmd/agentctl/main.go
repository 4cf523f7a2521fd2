// Command agentctl shows and controls the guest agent. Commands that show
// something only read files, so they work while the agent is down.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/ctl"
)

func main() {
	crash.Private()
	defer crash.Guard()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := ctl.Main(ctx, os.Args[1:], ctl.System(os.Getenv))
	stop()
	os.Exit(code)
}

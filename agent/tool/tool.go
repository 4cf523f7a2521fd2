package tool

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/process"
	"github.com/azguest/azguest/agent/log"
	"github.com/azguest/azguest/provisioning"
)

// Exit codes of the commands. The classic agent ends with 0
// whatever happened (provisioning/SPEC.md §16.5); scripts that look deserve to
// see a failure.
const (
	exitOK     = 0
	exitFailed = 1  // something was tried and is not done, or the image is not fit
	exitUsage  = 2  // not understood; also what a refused word of the classic grammar gives
	exitFlags  = 64 // wrong flags of generalize and image, as agentctl has it
)

// A Tool does what is asked for on a command line and ends, beside the agent
// or without it. Every field is required.
type Tool struct {
	Version string
	Config  *config.Config
	Root    host.Root
	Runner  host.Runner
	Kernel  host.Kernel
	// Service is agent.ControlService, Detach process.Detach.
	Service func(action string) error
	Detach  func(context.Context, process.Daemon) error
	In      io.Reader
	Out     io.Writer
	Err     io.Writer
}

// end says what went wrong.
func (t *Tool) end(err error) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(t.Err, "azguest:", err)
	return exitFailed
}

// log is for the few lines that packages below write of their own.
func (t *Tool) log() zerolog.Logger {
	return log.NewText(t.Err).Level(zerolog.WarnLevel)
}

func (t *Tool) system() *provisioning.System {
	return &provisioning.System{Root: t.Root, Run: t.Runner, Kernel: t.Kernel, Events: event.Discard{}, Log: t.log()}
}

// needRoot: half of it would be done, and that half is the dangerous one.
func (t *Tool) needRoot() error {
	if t.Root == "/" && os.Geteuid() != 0 {
		return errors.New("only root may do this")
	}
	return nil
}

// parseFlags returns ok false with the exit status when the flags are wrong,
// or were a question for help.
func parseFlags(f *flag.FlagSet, args []string) (code int, ok bool) {
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK, false
	case err != nil:
		return exitFlags, false
	}
	return 0, true
}

func (t *Tool) json(v any) error {
	enc := json.NewEncoder(t.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

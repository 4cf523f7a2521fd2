package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/process"
	"github.com/azguest/azguest/agent/log"
	"github.com/azguest/azguest/provisioning"
)

// Exit codes of the commands. The classic agent exits with 0 even after a
// failure (provisioning/SPEC.md §16.5); here scripts can see failures.
const (
	exitOK      = 0
	exitFailed  = 1 // failed, or the image must not be published
	exitClassic = 2 // a command of the classic agent that is provided by another command
	exitUnread  = 2 // the image to check can't be read
)

// A Tool runs one command of azguest and ends, whether or not the agent is
// running. Every field but Terminal is required.
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
	// Terminal is set if Out is a terminal.
	Terminal bool
}

// end prints err, if there is one, and returns the exit status.
func (t *Tool) end(err error) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(t.Err, "azguest:", err)
	return exitFailed
}

// log returns the logger for warnings of the packages below.
func (t *Tool) log() zerolog.Logger {
	return log.NewText(t.Err).Level(zerolog.WarnLevel)
}

func (t *Tool) system() *provisioning.System {
	return &provisioning.System{Root: t.Root, Run: t.Runner, Kernel: t.Kernel, Events: event.Discard{}, Log: t.log()}
}

// needRoot returns an error unless root runs the command: otherwise only a part
// would be done, which is dangerous.
func (t *Tool) needRoot() error {
	if t.Root == "/" && os.Geteuid() != 0 {
		return errors.New("only root may do this")
	}
	return nil
}

// usage prints what is wrong with the command line, and returns the exit status.
func (t *Tool) usage(err error) int {
	fmt.Fprintf(t.Err, "azguest: %v\nSee 'azguest help'.\n", err)
	return cli.ExitUsage
}

// command returns an error unless the first of the words is the only command
// below name.
func command(name string, words []string, known string) error {
	if len(words) == 0 {
		return fmt.Errorf("%s: a command is missing (%s)", name, known)
	}
	return cli.OneOf("command", words[0], known)
}

func (t *Tool) json(v any) error {
	enc := json.NewEncoder(t.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

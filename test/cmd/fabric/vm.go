package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/test/fabric"
)

// A vmAction is one action of fabric vm.
type vmAction struct {
	name   string
	needs  string // what its argument is; "" if it has none
	many   bool   // of the argument
	event  string // type of the event that it schedules
	method string
	path   string // below the machine
}

var vmActions = []vmAction{
	{name: "announce", method: http.MethodPost, path: "/announce"},
	{name: "announce-fasttrack", method: http.MethodPost, path: "/announce?fasttrack=true"},
	{name: "migrate", method: http.MethodPost, path: "/migrate"},
	{name: "hibernate", method: http.MethodPost, path: "/hibernate"},
	{name: "rotate", method: http.MethodPost, path: "/rotate"},
	{name: "rescan", method: http.MethodPost},
	{name: "status", method: http.MethodGet, path: "/status"},
	{name: "config", method: http.MethodPatch},
	{name: "simulate-eviction", event: fabric.Preempt},
	{name: "redeploy", event: fabric.Redeploy},
	{name: "freeze", event: fabric.Freeze},
	{name: "reboot", event: fabric.Reboot},
	{name: "terminate", event: fabric.Terminate},
	{name: "events", method: http.MethodGet, path: "/events"},
	{name: "cancel-event", needs: "the id of an event", method: http.MethodDelete, path: "/events/"},
	{name: "user-data", needs: "a file", method: http.MethodPut, path: "/userdata"},
	{name: "vendor-data", needs: "a file", method: http.MethodPut, path: "/vendordata"},
	{name: "tag", needs: "NAME=VALUE", many: true, method: http.MethodPatch, path: "/tags"},
}

// vmFlags are the flags of fabric vm.
type vmFlags struct {
	config        string
	notice, lasts time.Duration
}

func vmCommand(r *remote) *cobra.Command {
	f := &vmFlags{}
	cmd := &cobra.Command{
		Use:   "vm [ACTION [ARGUMENT…]]",
		Short: "show or change the virtual machine",
		Long: `Without an argument, print the platform's data about the machine.

  announce             publish a new incarnation, without other changes
  announce-fasttrack   publish new vmSettings, without other changes
  migrate              move to another host: new container id and config name
  hibernate            resume with incarnation 1 and a new tenant certificate
  rotate               create a new tenant certificate
  rescan               search the repository for new packages
  status               print the last status document
  config --set JSON    change the configuration, for example
                       '{"requiredFeatures":["X"],"statusBlob":"PageBlob"}'
  user-data FILE       replace the user data of the metadata service ("-" is
                       standard input)
  vendor-data FILE     replace the vendor data, an extension of the protocol
  tag NAME=VALUE…      set tags; NAME= removes one

These schedule an event, and print its id. It starts when the guest acknowledges
it, or after the notice; the guest itself is not touched.

  simulate-eviction    Preempt, 30 seconds from now
  redeploy             Redeploy, 10 minutes from now
  freeze               Freeze, 15 minutes from now
  reboot               Reboot, 15 minutes from now
  terminate            Terminate, 5 minutes from now
  events               print the scheduled events, also past ones
  cancel-event ID      cancel an event that has not started`,
		Args: func(_ *cobra.Command, args []string) error {
			_, err := findAction(args)
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			action, err := findAction(args)
			if err != nil {
				return err
			}
			if err := f.check(cmd, action); err != nil {
				return err
			}
			vm, err := r.machine(cmd.Context())
			if err != nil {
				return err
			}
			return f.run(cmd, r, vm, action, args[min(1, len(args)):])
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.config, "set", "", "configuration to change, as JSON, for the action config")
	span(fl, &f.notice, 0, "notice", "time until an event starts without an acknowledgement; 0 starts it at once (default: the platform's minimum)")
	span(fl, &f.lasts, time.Millisecond, "lasts", "time from the start of an event until it is completed (default: 10s)")
	return r.flags(cmd)
}

// findAction returns the action that the arguments name; without arguments, the
// one that shows the machine.
func findAction(args []string) (vmAction, error) {
	if len(args) == 0 {
		return vmAction{method: http.MethodGet}, nil
	}
	var names []string
	for _, a := range vmActions {
		names = append(names, a.name)
	}
	if err := fabric.OneOf("action", args[0], names...); err != nil {
		return vmAction{}, usageError{err}
	}
	a := vmActions[slices.Index(names, args[0])]
	switch given := len(args) - 1; {
	case a.needs != "" && given == 0:
		return a, usageError{fmt.Errorf("vm %s: an argument is missing: %s", a.name, a.needs)}
	case a.needs == "" && given > 0, !a.many && given > 1:
		return a, usageError{fmt.Errorf("vm %s: unexpected argument %q", a.name, args[len(args)-1])}
	}
	return a, nil
}

// check returns an error if a flag has no effect on the action.
func (f *vmFlags) check(cmd *cobra.Command, a vmAction) error {
	if (a.name == "config") != cmd.Flags().Changed("set") {
		return usageError{errors.New("the action config and --set belong together")}
	}
	for _, name := range []string{"notice", "lasts"} {
		if a.event == "" && cmd.Flags().Changed(name) {
			return usageError{fmt.Errorf("--%s has no effect without an action that schedules an event", name)}
		}
	}
	return nil
}

// run sends the request of an action and prints the answer.
func (f *vmFlags) run(cmd *cobra.Command, r *remote, vm string, a vmAction, args []string) error {
	method, path := a.method, vm+a.path
	var body any
	var err error
	switch {
	case a.event != "":
		x := fabric.EventRequest{Type: a.event, Notice: fabric.Duration(f.notice), Lasts: fabric.Duration(f.lasts)}
		if cmd.Flags().Changed("notice") && f.notice == 0 {
			x.Notice = -1
		}
		method, path, body = http.MethodPost, vm+"/events", x
	case a.name == "rescan":
		path = "/_fabric/rescan"
	case a.name == "config":
		body = []byte(f.config)
	case a.name == "cancel-event":
		path += url.PathEscape(args[0])
	case a.name == "tag":
		body, err = tags(args)
	case a.needs != "":
		body, err = readFile(args[0], cmd.InOrStdin())
	}
	if err != nil {
		return err
	}
	data, _, err := r.client().Do(cmd.Context(), method, path, body)
	if err != nil {
		return err
	}
	return showAction(cmd.OutOrStdout(), a, data)
}

// showAction prints an answer: of an event that was scheduled, its id.
func showAction(w io.Writer, a vmAction, data []byte) error {
	if a.event == "" {
		return show(w, data)
	}
	var made struct{ ID string }
	if err := json.Unmarshal(data, &made); err != nil {
		return fmt.Errorf("read id of the event: %w", err)
	}
	_, err := fmt.Fprintln(w, made.ID)
	return err
}

// tags reads NAME=VALUE; without a value, the tag is to be removed.
func tags(args []string) (map[string]*string, error) {
	out := map[string]*string{}
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, usageError{fmt.Errorf("tag %q is not NAME=VALUE", arg)}
		}
		if err := fabric.CheckTag(name, value); err != nil {
			return nil, usageError{err}
		}
		out[name] = nil
		if value != "" {
			out[name] = &value
		}
	}
	return out, nil
}

// machine returns the path of the virtual machine that the command concerns.
func (r *remote) machine(ctx context.Context) (string, error) {
	name := r.vm
	if name == "" {
		data, _, err := r.client().Do(ctx, http.MethodGet, "/_fabric/vms", nil)
		if err != nil {
			return "", err
		}
		var list []struct{ Name string }
		if err := json.Unmarshal(data, &list); err != nil {
			return "", fmt.Errorf("read list of virtual machines: %w", err)
		}
		if len(list) > 0 {
			name = list[0].Name
		}
	}
	return "/_fabric/vms/" + url.PathEscape(name), nil
}

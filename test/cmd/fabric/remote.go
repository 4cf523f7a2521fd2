package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/test/fabric"
)

func putCommand(r *remote) *cobra.Command {
	var (
		x    extensionFlags
		wait bool
	)
	cmd := &cobra.Command{
		Use:   "put NAME",
		Short: "create or update an extension",
		Long: `Create or update an extension through the control plane. The resource is built
from flags, or read as ARM JSON from --file ("-" is standard input).`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range []string{"handler", "version", "settings", "protected-settings", "force-update-tag", "after", "auto-upgrade", "suppress-failures"} {
				if x.file != "" && cmd.Flags().Changed(name) {
					return usageError{fmt.Errorf("--%s has no effect with --file", name)}
				}
			}
			body, err := x.body(cmd.InOrStdin())
			if err != nil {
				return err
			}
			answer, err := r.client().PutExtension(cmd.Context(), args[0], body, wait)
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), answer)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&x.handler, "handler", "", "name of the handler, Publisher.Type")
	fl.StringVar(&x.version, "version", "1.0", "version of the handler, major.minor")
	fl.StringVar(&x.settings, "settings", "", "public settings, JSON or @FILE")
	fl.StringVar(&x.protected, "protected-settings", "", "protected settings, JSON or @FILE")
	fl.StringVar(&x.tag, "force-update-tag", "", "any text; a new one runs the extension again with the same settings")
	fl.StringArrayVar(&x.after, "after", nil, "name of an extension to be provisioned first; repeatable")
	fl.BoolVar(&x.autoUpgrade, "auto-upgrade", false, "use the newest minor version")
	fl.BoolVar(&x.suppress, "suppress-failures", false, "report a failure as success")
	fl.BoolVar(&wait, "wait", false, "wait for the operation to end; exit with an error if it fails")
	fl.StringVar(&x.file, "file", "", "file with the resource as JSON")
	return r.flags(cmd)
}

// extensionFlags are the flags that describe an extension.
type extensionFlags struct {
	handler, version, settings, protected, tag, file string
	after                                            []string
	autoUpgrade, suppress                            bool
}

// body returns the resource: the content of the file, or built from the flags.
func (x extensionFlags) body(in io.Reader) ([]byte, error) {
	if x.file != "" {
		return readFile(x.file, in)
	}
	i := strings.LastIndex(x.handler, ".")
	if i < 0 {
		return nil, usageError{errors.New("--handler must be Publisher.Type")}
	}
	p := map[string]any{"publisher": x.handler[:i], "type": x.handler[i+1:], "typeHandlerVersion": x.version, "autoUpgradeMinorVersion": x.autoUpgrade, "suppressFailures": x.suppress}
	for name, text := range map[string]string{"settings": x.settings, "protectedSettings": x.protected} {
		if text == "" {
			continue
		}
		if text[0] == '@' {
			data, err := readFile(text[1:], in)
			if err != nil {
				return nil, err
			}
			text = string(data)
		}
		if !json.Valid([]byte(text)) {
			return nil, usageError{fmt.Errorf("%s is not JSON", name)}
		}
		p[name] = json.RawMessage(text)
	}
	if x.tag != "" {
		p["forceUpdateTag"] = x.tag
	}
	if len(x.after) > 0 {
		p["provisionAfterExtensions"] = x.after
	}
	data, err := json.Marshal(map[string]any{"properties": p})
	if err != nil {
		return nil, fmt.Errorf("encode extension: %w", err)
	}
	return data, nil
}

func readFile(name string, in io.Reader) ([]byte, error) {
	if name == "-" {
		data, err := io.ReadAll(in)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return data, nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read input: %w", err)
	}
	return data, nil
}

// show prints JSON with indentation, and anything else unchanged.
func show(w io.Writer, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	var v any
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	if d.Decode(&v) != nil {
		_, err := fmt.Fprintln(w, strings.TrimSpace(string(data)))
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func getCommand(r *remote) *cobra.Command {
	return r.flags(&cobra.Command{
		Use:   "get [NAME]",
		Short: "show an extension with its instance view, or list all",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			data, err := r.client().GetExtension(cmd.Context(), name)
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), data)
		},
	})
}

func deleteCommand(r *remote) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "remove an extension",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.client().DeleteExtension(cmd.Context(), args[0], wait)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the guest no longer reports the extension")
	return r.flags(cmd)
}

func awaitCommand(r *remote) *cobra.Command {
	timeout := time.Minute
	cmd := &cobra.Command{
		Use:   "await CONDITION…",
		Short: "wait until the guest reaches a state",
		Long: `Wait until all conditions are met, one after the other. At the timeout, fail and
say in one sentence what the state is instead; "fabric vm" shows all of it.

  ready                                the last health report is Ready
  health=NotReady/ProvisioningFailed   the last health report has this state and sub-status
  extension=NAME[:succeeded|failed|gone]
  handler=Publisher.Type[:Ready|NotReady|gone]
  says=TEXT                            the last status document contains this text
  status[=N]                           N status documents were received (default 1)
  request=KIND[:N]                     N requests of this kind were received (default 1)
  converged                            the guest has processed the current goal state
  event=TYPE[:STATE]                   a scheduled event is acknowledged, or in this state:
                                       scheduled, started, completed or cancelled`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			deadline := time.Now().Add(timeout)
			for _, condition := range args {
				if _, err := fabric.ParseCondition(condition); err != nil {
					return usageError{err}
				}
				q := url.Values{"for": {condition}, "timeout": {max(0, time.Until(deadline)).String()}, "vm": {r.vm}}
				data, _, err := r.client().Do(cmd.Context(), http.MethodGet, "/_fabric/await?"+q.Encode(), nil)
				if err != nil {
					return await(err, data, timeout)
				}
			}
			return nil
		},
	}
	span(cmd.Flags(), &timeout, time.Millisecond, "timeout", "time limit for all conditions together")
	return r.flags(cmd)
}

// await returns the error of a wait: of the answer at the timeout, the sentence
// that says what the state is instead.
func await(err error, answer []byte, timeout time.Duration) error {
	e, ok := errors.AsType[*fabric.RemoteError](err)
	var body struct{ Error string }
	if !ok || e.Status != http.StatusRequestTimeout || json.Unmarshal(answer, &body) != nil || body.Error == "" {
		return err
	}
	return fmt.Errorf("not met after %s: %s", timeout, body.Error)
}

func journalCommand(r *remote) *cobra.Command {
	var (
		kind, contains string
		since, limit   int
		problems       bool
		follow         bool
	)
	cmd := &cobra.Command{
		Use:   "journal",
		Short: "print the received requests, as JSON lines",
		Long: `Print the requests that the platform received, and its answers. The "problems" of
an entry are deviations from the protocol that a stricter platform could refuse.
With --follow, print one line of text for each event, and wait for more.

Kinds: versions goalstate hostingenvironmentconfig sharedconfig extensionsconfig
certificates remoteaccess health roleproperties telemetry healthservice
provisioninghealth hostga.versions hostga.health vmsettings artifact hostga.status
vmagentlog immediategoalstate blob.get blob.put imds scheduledevents arm. Three
kinds are not requests: status (a complete status document), change (of the goal
state) and event (of a scheduled event).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kind != "" {
				if err := fabric.KnownKind(kind, append(fabric.Kinds(), fabric.Events()...)); err != nil {
					return usageError{err}
				}
			}
			q := url.Values{"kind": {kind}, "contains": {contains}, "vm": {r.vm}}
			q.Set("since", strconv.Itoa(since))
			q.Set("limit", strconv.Itoa(limit))
			q.Set("problems", strconv.FormatBool(problems))
			if follow {
				return r.follow(cmd.Context(), q, cmd.OutOrStdout())
			}
			data, _, err := r.client().Do(cmd.Context(), http.MethodGet, "/_fabric/journal?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(data)
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&kind, "kind", "", `only entries of this kind; a prefix with *, such as "blob*", is allowed`)
	fl.StringVar(&contains, "contains", "", "only entries with this text in the URL or the body")
	count(fl, &since, "since", "only entries after this number")
	count(fl, &limit, "limit", "only the last N entries")
	fl.BoolVar(&problems, "problems", false, "only entries with problems")
	fl.BoolVarP(&follow, "follow", "f", false, "print one line for each event, also for those to come")
	return r.flags(cmd)
}

// followEvery is the pause between two looks at the journal.
const followEvery = 500 * time.Millisecond

// follow prints one line for each entry until ctx ends or the fabric is gone.
func (r *remote) follow(ctx context.Context, q url.Values, out io.Writer) error {
	for {
		data, _, err := r.client().Do(ctx, http.MethodGet, "/_fabric/journal?"+q.Encode(), nil)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // interrupted, which is how it ends
		}
		if err != nil {
			return err
		}
		for d := json.NewDecoder(bytes.NewReader(data)); ; {
			var e fabric.Entry
			if err := d.Decode(&e); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return fmt.Errorf("read journal: %w", err)
			}
			if _, err := fmt.Fprintln(out, oneLine(e)); err != nil {
				return err
			}
			q.Set("since", strconv.Itoa(e.Seq))
			q.Del("limit") // of the entries that are there at first
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// oneLine describes an entry in one line.
func oneLine(e fabric.Entry) string {
	s := fmt.Sprintf("%s %-6d %-8s %-16s", e.Time.UTC().Format("15:04:05.000"), e.Seq, e.VM, e.Kind)
	if e.Method != "" {
		s += fmt.Sprintf(" %s %s -> %d", e.Method, strings.Map(printable, e.URL), e.Code)
	}
	if e.Kind == fabric.Maintenance {
		s += fmt.Sprintf(" %v %v %v", e.Detail["type"], e.Detail["change"], e.Detail["id"])
	}
	if e.Fault != "" {
		s += "  fault: " + strings.Map(printable, e.Fault)
	}
	if len(e.Problems) > 0 {
		s += "  problems: " + strings.Map(printable, strings.Join(e.Problems, "; "))
	}
	return strings.TrimRight(s, " ")
}

// printable replaces what a guest could have sent to confuse a terminal.
func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}

func failCommand(r *remote) *cobra.Command {
	var (
		f            fabric.Fault
		body, ctype  string
		truncate     int
		delay, lasts time.Duration
		set          map[string]string
	)
	cmd := &cobra.Command{
		Use:   "fail KIND",
		Short: "inject a fault",
		Long: `Inject a fault into requests of a kind (see "fabric journal --help"; "*" is all).
Without flags for the effect, the connection is reset. Prints the id of the fault,
for "fabric mend".

  fabric fail goalstate --status 503 --times 2
  fabric fail artifact --match Hello --truncate 100
  fabric fail '*' --probability 0.2 --seed 7 --for 1m --status 500
  fabric fail hostga.status --apply --status 500     # store the status, then answer 500`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := fabric.KnownKind(args[0], fabric.Kinds()); err != nil {
				return usageError{err}
			}
			if cmd.Flags().Changed("seed") && f.Probability == 0 {
				return usageError{errors.New("--seed has no effect without --probability")}
			}
			f.Kind, f.VM = fabric.Kind(args[0]), r.vm
			f.Delay, f.For, f.ContentType, f.Set = fabric.Duration(delay), fabric.Duration(lasts), ctype, set
			if cmd.Flags().Changed("body") {
				f.Body = &body
			}
			if cmd.Flags().Changed("truncate") {
				f.Truncate = &truncate
			}
			if err := f.Check(); err != nil {
				return usageError{err}
			}
			data, _, err := r.client().Do(cmd.Context(), http.MethodPost, "/_fabric/faults", f)
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), data)
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&f.Status, "status", 0, "answer with this HTTP status")
	fl.StringVar(&body, "body", "", "answer with this body")
	fl.StringVar(&ctype, "content-type", "", "answer with this content type")
	fl.StringToStringVar(&set, "header", nil, `set a response header, name=value; name= removes it`)
	fl.StringVar(&f.Header, "when-header", "", `only requests with this header: "name" or "name: value"`)
	fl.StringVar(&f.Match, "match", "", "only requests whose URL or artifact location contains this text")
	span(fl, &delay, 0, "delay", "wait before answering")
	count(fl, &truncate, "truncate", "cut the connection after N bytes of the body")
	count(fl, &f.Rate, "rate", "send the body at N bytes per second")
	fl.BoolVar(&f.Chunked, "chunked", false, "send the body in chunks, without its length")
	fl.BoolVar(&f.Reset, "reset", false, "reset the connection without an answer")
	fl.BoolVar(&f.Apply, "apply", false, "process the request before the fault takes effect")
	count(fl, &f.Skip, "skip", "let N requests pass first")
	count(fl, &f.Times, "times", "affect only N requests (default: all)")
	span(fl, &lasts, 0, "for", "remove the fault after this time (default: never)")
	fl.Float64Var(&f.Probability, "probability", 0, "affect requests with this probability (default: 1)")
	fl.Uint64Var(&f.Seed, "seed", 0, "random seed for --probability")
	return r.flags(cmd)
}

func mendCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "mend [ID]",
		Short: "remove a fault, or all faults",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/_fabric/faults"
			if len(args) > 0 {
				if _, err := strconv.Atoi(args[0]); err != nil {
					return usageError{fmt.Errorf("%q is not the id of a fault", args[0])}
				}
				path += "/" + args[0]
			}
			_, _, err := r.client().Do(cmd.Context(), http.MethodDelete, path, nil)
			return err
		},
	}
}

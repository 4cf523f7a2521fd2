package main

import (
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

	"github.com/spf13/cobra"

	"github.com/azguest/azguest/test/fabric"
)

func putCommand(r *remote) *cobra.Command {
	var (
		handler, version, settings, protected, tag, file string
		after                                            []string
		autoUpgrade, suppress, wait                      bool
	)
	cmd := &cobra.Command{
		Use:   "put NAME",
		Short: "create or update an extension",
		Long: `Create or update an extension through the control plane. The resource comes
from flags, or as JSON from --file ("-" is standard input), as ARM takes it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var body []byte
			if file != "" {
				data, err := readFile(file, cmd.InOrStdin())
				if err != nil {
					return err
				}
				body = data
			} else {
				i := strings.LastIndex(handler, ".")
				if i < 0 {
					return usageError{errors.New("--handler must be Publisher.Type")}
				}
				p := map[string]any{"publisher": handler[:i], "type": handler[i+1:], "typeHandlerVersion": version, "autoUpgradeMinorVersion": autoUpgrade, "suppressFailures": suppress}
				for name, text := range map[string]string{"settings": settings, "protectedSettings": protected} {
					if text == "" {
						continue
					}
					if text[0] == '@' {
						data, err := readFile(text[1:], cmd.InOrStdin())
						if err != nil {
							return err
						}
						text = string(data)
					}
					if !json.Valid([]byte(text)) {
						return usageError{fmt.Errorf("%s is not JSON", name)}
					}
					p[name] = json.RawMessage(text)
				}
				if tag != "" {
					p["forceUpdateTag"] = tag
				}
				if len(after) > 0 {
					p["provisionAfterExtensions"] = after
				}
				data, err := json.Marshal(map[string]any{"properties": p})
				if err != nil {
					return fmt.Errorf("encode extension: %w", err)
				}
				body = data
			}
			answer, err := r.client().PutExtension(cmd.Context(), args[0], body, wait)
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), answer)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&handler, "handler", "", "Publisher.Type")
	fl.StringVar(&version, "version", "1.0", "major.minor")
	fl.StringVar(&settings, "settings", "", "public settings, JSON or @FILE")
	fl.StringVar(&protected, "protected-settings", "", "protected settings, JSON or @FILE")
	fl.StringVar(&tag, "force-update-tag", "", "change to run again with the same settings")
	fl.StringArrayVar(&after, "after", nil, "name of an extension to wait for; repeatable")
	fl.BoolVar(&autoUpgrade, "auto-upgrade", false, "take the newest minor version")
	fl.BoolVar(&suppress, "suppress-failures", false, "count a failure as success")
	fl.BoolVar(&wait, "wait", false, "wait for the operation to end; a failed one fails the command")
	fl.StringVar(&file, "file", "", "the resource as JSON")
	return r.flags(cmd)
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

// show prints JSON with indentation, and anything else as it is.
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
		Short: "show an extension with its instance view, or list them",
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
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the guest does not report it any more")
	return r.flags(cmd)
}

func awaitCommand(r *remote) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "await CONDITION…",
		Short: "wait for something the guest shall do",
		Long: `Wait until every condition has been met, one after the other; the command
fails, and says how things stand, when the time is over.

  ready                                the last health report is Ready
  health=NotReady/ProvisioningFailed   …is that state and sub-status
  extension=NAME[:succeeded|failed|gone]
  handler=Publisher.Type[:Ready|NotReady|gone]
  says=TEXT                            a text in the last status document
  status[=N]                           so many status documents have come
  request=KIND[:N]                     so many requests of a kind have come
  converged                            the current goal state is processed`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			deadline := time.Now().Add(timeout)
			for _, condition := range args {
				if _, err := fabric.ParseCondition(condition); err != nil {
					return usageError{err}
				}
				q := url.Values{"for": {condition}, "timeout": {max(0, time.Until(deadline)).String()}, "vm": {r.vm}}
				if _, _, err := r.client().Do(cmd.Context(), http.MethodGet, "/_fabric/await?"+q.Encode(), nil); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "for all conditions together")
	return r.flags(cmd)
}

func journalCommand(r *remote) *cobra.Command {
	var (
		kind, contains string
		since, limit   int
		problems       bool
	)
	cmd := &cobra.Command{
		Use:   "journal",
		Short: "print what was received, as JSON lines",
		Long: `Print what the platform received, and what it answered. Entries with "problems"
name what a stricter platform would have objected to.

Kinds: versions goalstate hostingenvironmentconfig sharedconfig extensionsconfig
certificates remoteaccess health roleproperties telemetry healthservice
provisioninghealth hostga.versions hostga.health vmsettings artifact hostga.status
vmagentlog immediategoalstate blob.get blob.put imds arm; and, not requests,
status (a complete status document) and change (of the goal state).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{"kind": {kind}, "contains": {contains}, "vm": {r.vm}}
			q.Set("since", strconv.Itoa(since))
			q.Set("limit", strconv.Itoa(limit))
			q.Set("problems", strconv.FormatBool(problems))
			data, _, err := r.client().Do(cmd.Context(), http.MethodGet, "/_fabric/journal?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(data)
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&kind, "kind", "", `kind of entry; "blob*" is a prefix`)
	fl.StringVar(&contains, "contains", "", "text in URL or body")
	fl.IntVar(&since, "since", 0, "only entries after this number")
	fl.IntVar(&limit, "limit", 0, "only the last so many")
	fl.BoolVar(&problems, "problems", false, "only entries with problems")
	return r.flags(cmd)
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
		Short: "make an endpoint misbehave",
		Long: `Make requests of a kind (see "fabric journal --help"; "*" is all) fail. Without
an effect the connection is reset. Prints the id for "fabric mend".

  fabric fail goalstate --status 503 --times 2
  fabric fail artifact --match Hello --truncate 100
  fabric fail '*' --probability 0.2 --seed 7 --for 1m --status 500
  fabric fail hostga.status --apply --status 500     # stored, but denied`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Kind, f.VM = fabric.Kind(args[0]), r.vm
			f.Delay, f.For, f.ContentType, f.Set = fabric.Duration(delay), fabric.Duration(lasts), ctype, set
			if cmd.Flags().Changed("body") {
				f.Body = &body
			}
			if cmd.Flags().Changed("truncate") {
				f.Truncate = &truncate
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
	fl.StringVar(&f.Header, "when-header", "", `only requests with this header, "name" or "name: value"`)
	fl.StringVar(&f.Match, "match", "", "only requests whose URL or artifact location holds this text")
	fl.DurationVar(&delay, "delay", 0, "wait before answering")
	fl.IntVar(&truncate, "truncate", 0, "cut the connection after so many bytes of the body")
	fl.IntVar(&f.Rate, "rate", 0, "send so many bytes a second")
	fl.BoolVar(&f.Chunked, "chunked", false, "send the body in chunks, without its length")
	fl.BoolVar(&f.Reset, "reset", false, "cut the connection without an answer")
	fl.BoolVar(&f.Apply, "apply", false, "carry the request out before answering wrongly")
	fl.IntVar(&f.Skip, "skip", 0, "let so many requests pass first")
	fl.IntVar(&f.Times, "times", 0, "strike so many times (default: always)")
	fl.DurationVar(&lasts, "for", 0, "strike during this time (default: always)")
	fl.Float64Var(&f.Probability, "probability", 0, "strike with this probability (default: always)")
	fl.Uint64Var(&f.Seed, "seed", 0, "of the dice")
	return r.flags(cmd)
}

func mendCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:   "mend [ID]",
		Short: "take a fault away, or all of them",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/_fabric/faults"
			if len(args) > 0 {
				path += "/" + args[0]
			}
			_, _, err := r.client().Do(cmd.Context(), http.MethodDelete, path, nil)
			return err
		},
	}
}

func vmCommand(r *remote) *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "vm [announce|announce-fasttrack|migrate|hibernate|rotate|rescan|status|config]",
		Short: "show the virtual machine, or do something to it",
		Long: `Without an argument, print what the platform knows about the machine.

  announce             a new incarnation, nothing else
  announce-fasttrack   new vmSettings, nothing else
  migrate              move to another host: new container id and config name
  hibernate            resume with incarnation 1 and a new tenant certificate
  rotate               a new tenant certificate
  rescan               look for new packages in the repository
  status               print the last status document
  config --set JSON    change the configuration, for example
                       '{"requiredFeatures":["X"],"statusBlob":"PageBlob"}'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := r.client()
			data, _, err := c.Do(cmd.Context(), http.MethodGet, "/_fabric/vms", nil)
			if err != nil {
				return err
			}
			var list []struct{ Name string }
			if err := json.Unmarshal(data, &list); err != nil {
				return fmt.Errorf("read list of virtual machines: %w", err)
			}
			name := r.vm
			if name == "" && len(list) > 0 {
				name = list[0].Name
			}
			method, path := http.MethodGet, "/_fabric/vms/"+url.PathEscape(name)
			var body any
			if len(args) > 0 {
				switch args[0] {
				case "announce", "migrate", "hibernate", "rotate":
					method, path = http.MethodPost, path+"/"+args[0]
				case "announce-fasttrack":
					method, path = http.MethodPost, path+"/announce?fasttrack=true"
				case "status":
					path += "/status"
				case "rescan":
					method, path = http.MethodPost, "/_fabric/rescan"
				case "config":
					method, body = http.MethodPatch, []byte(config)
				default:
					return usageError{fmt.Errorf("unknown action %q", args[0])}
				}
			}
			data, _, err = c.Do(cmd.Context(), method, path, body)
			if err != nil {
				return err
			}
			return show(cmd.OutOrStdout(), data)
		},
	}
	cmd.Flags().StringVar(&config, "set", "{}", "configuration for config")
	return r.flags(cmd)
}

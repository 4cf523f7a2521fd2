package tool

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/metadata"
	"github.com/azguest/azguest/protocol/platform"
)

// Exit codes of metadata; agentctl metadata --help explains them.
const (
	exitNothing   = 1 // nothing is at the path
	exitNoService = 3 // the service does not answer, and no copy has the answer
	exitCopy      = 5 // printed from the copy, because the service does not answer
	exitUnchanged = 6 // no change in time
)

const (
	userDataWord = "userdata"
	userDataPath = "compute/userData"
	leastEvery   = time.Second
)

// metadataCommand is one run of "azguest metadata".
type metadataCommand struct {
	*Tool
	ask                       func(context.Context) ([]byte, error) // the service
	path                      string
	decode                    bool // the value at path is user data
	json, shell, cached, wait bool
	was                       *string // the value that is known
	timeout, every            time.Duration
}

// Metadata is the command "azguest metadata [PATH]": it prints the instance
// metadata, or a part of them.
func (t *Tool) Metadata(ctx context.Context, args []string) int {
	m := &metadataCommand{Tool: t}
	f := flag.NewFlagSet("azguest metadata", flag.ContinueOnError)
	f.BoolVar(&m.json, "json", false, "as JSON")
	f.BoolVar(&m.shell, "shell", false, "as variables for a shell")
	f.BoolVar(&m.cached, "cached", false, "print the last copy")
	f.BoolVar(&m.wait, "wait-change", false, "wait until the value changes")
	f.Func("was", "the value that is known", func(s string) error { m.was = &s; return nil })
	f.DurationVar(&m.timeout, "timeout", 0, "how long to wait; 0: no limit")
	f.DurationVar(&m.every, "every", 5*time.Second, "how often the service is asked")
	if code, ok := cli.ParseFlags(f, args, t.Err); !ok {
		return code
	}
	if f.NArg() > 1 {
		return t.usage(fmt.Errorf("metadata: unexpected argument %q", f.Arg(1)))
	}
	m.path = f.Arg(0)
	if strings.EqualFold(m.path, userDataWord) {
		m.path, m.decode = userDataPath, true
	}
	if err := m.check(f); err != nil {
		return t.usage(fmt.Errorf("metadata: %w", err))
	}
	c := platform.New(platform.Options{Root: t.Root, IMDS: t.Config.Protocol.IMDS, AgentVersion: t.Version, UserAgent: t.Config.Protocol.UserAgent, Log: zerolog.Nop()})
	m.ask = c.NewestMetadata
	if m.wait {
		return m.waitChange(ctx)
	}
	return m.once(ctx)
}

// check returns what is wrong with the flags.
func (m *metadataCommand) check(f *flag.FlagSet) (err error) {
	switch {
	case m.json && m.shell:
		return errors.New("--json cannot be used with --shell")
	case m.decode && (m.json || m.shell):
		return errors.New("user data are printed as they are; --json and --shell need a path, such as " + userDataPath)
	case m.decode && m.cached:
		return errors.New("user data are never in the copy that --cached prints")
	case m.wait && m.cached:
		return errors.New("--wait-change cannot be used with --cached")
	case m.timeout < 0:
		return errors.New("--timeout must not be negative")
	case m.every < leastEvery:
		return fmt.Errorf("--every must be at least %v", leastEvery)
	}
	f.Visit(func(f *flag.Flag) {
		if !m.wait && (f.Name == "was" || f.Name == "timeout" || f.Name == "every") {
			err = fmt.Errorf("--%s has no effect without --wait-change", f.Name)
		}
	})
	return err
}

// once prints what the service says now, or has said.
func (m *metadataCommand) once(ctx context.Context) int {
	if m.cached {
		c, err := metadata.ReadCache(m.Root)
		if err != nil {
			return m.fail(exitNoService, noCopy(err))
		}
		return m.fromCopy(c, nil)
	}
	doc, err := m.fetch(ctx)
	if err == nil {
		m.refresh(doc)
		return m.show(doc)
	}
	c, cerr := metadata.ReadCache(m.Root)
	if cerr != nil {
		return m.fail(exitNoService, fmt.Errorf("%w; %w", err, noCopy(cerr)))
	}
	return m.fromCopy(c, err)
}

func noCopy(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("there is no copy from earlier")
	}
	return err
}

// fromCopy prints from the copy: because of why, or, if that is nil, because it
// was asked for.
func (m *metadataCommand) fromCopy(c *metadata.Cache, why error) int {
	age := max(0, time.Since(c.Fetched)).Round(time.Second)
	_, _, err := c.Document.Find(m.path)
	switch {
	case err != nil && c.Hides(m.path):
		return m.fail(exitNoService, fmt.Errorf("the copy from %v ago has no %s, which may be secret%w", age, m.path, because(why)))
	case err != nil && why != nil: // not known
		return m.fail(exitNoService, fmt.Errorf("the copy from %v ago has no %s%w", age, m.path, because(why)))
	}
	code := m.show(c.Document)
	if why == nil || code != exitOK {
		return code
	}
	return m.fail(exitCopy, fmt.Errorf("printed from the copy, %v old%w", age, because(why)))
}

// becauseError adds a cause, if there is one, to a sentence.
type becauseError struct{ error }

func (b becauseError) Error() string {
	if b.error == nil {
		return ""
	}
	return ": " + b.error.Error()
}
func (b becauseError) Unwrap() error { return b.error }

func because(err error) error { return becauseError{err} }

// fetch asks the service.
func (m *metadataCommand) fetch(ctx context.Context) (*metadata.Node, error) {
	b, err := m.ask(ctx)
	if err != nil {
		return nil, fmt.Errorf("the metadata service does not answer: %w", err)
	}
	doc, err := metadata.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("the answer of the metadata service cannot be used: %w", err)
	}
	return doc, nil
}

// refresh writes the copies, if root runs the command.
func (m *metadataCommand) refresh(doc *metadata.Node) {
	if os.Geteuid() != 0 {
		return
	}
	err := metadata.WriteCache(m.Root, doc, time.Now())
	if err == nil && m.Config.Metadata.EnvFile {
		err = metadata.WriteUnit(m.Root, doc)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // without its directory, the agent has never run
		fmt.Fprintln(m.Err, "azguest: the copy was not refreshed:", err)
	}
}

// show prints the part of a document that was asked for.
func (m *metadataCommand) show(doc *metadata.Node) int {
	n, path, err := doc.Find(m.path)
	if err != nil {
		return m.fail(exitNothing, elsewhere(m.path, err))
	}
	switch {
	case m.decode:
		return m.userData(n)
	case m.json:
		err = n.JSON(m.Out)
	case m.shell:
		return m.variables(doc, path)
	case m.Terminal && n.Leaf():
		_, err = fmt.Fprintln(m.Out, safe(n.Value()))
	default:
		err = n.Text(m.Out)
	}
	return m.end(err)
}

// elsewhere adds to the error of a path that is one of the service, but not of its
// instance document, who answers it.
func elsewhere(path string, err error) error {
	first, _, _ := strings.Cut(strings.Trim(path, "/"), "/")
	switch first = strings.ToLower(first); first {
	case "scheduledevents":
		return fmt.Errorf("%w; scheduled events are shown by: agentctl events", err)
	case "attested", "identity", "loadbalancer", "versions":
		return fmt.Errorf("%w: it is a document of its own; ask the service itself: curl --noproxy '*' -H Metadata:true http://169.254.169.254/metadata/%s", err, first)
	}
	return err
}

// safe makes a value harmless for a terminal. Programs get it as it is.
func safe(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && metadata.Controls(r) {
			return '?'
		}
		return r
	}, s)
}

// userData prints user data, decoded.
func (m *metadataCommand) userData(n *metadata.Node) int {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(n.Value()))
	switch {
	case err != nil || !n.Leaf():
		return m.fail(exitNothing, errors.New("the user data are not base64; to see them, run: agentctl metadata "+userDataPath))
	case len(b) == 0:
		return m.fail(exitNothing, errors.New("this machine has no user data"))
	case m.Terminal:
		b = []byte(safe(strings.ToValidUTF8(string(b), "?")))
	}
	_, err = m.Out.Write(b)
	return m.end(err)
}

func (m *metadataCommand) variables(doc *metadata.Node, path []string) int {
	public, _ := doc.Public()
	n, path, err := public.Find(strings.Join(path, "/"))
	if err != nil {
		return m.fail(exitNothing, fmt.Errorf("%s is never printed as a variable, it may be secret", m.path))
	}
	vars, left := n.Variables(path)
	for _, why := range left {
		fmt.Fprintln(m.Err, "azguest: left out:", why)
	}
	if len(vars) == 0 {
		return m.fail(exitNothing, fmt.Errorf("there is no value at %s that a variable can have", cmp.Or(m.path, "the document")))
	}
	return m.end(metadata.Shell(m.Out, vars))
}

// state is what a change is judged by: whether something is at the path, and
// what.
type state struct {
	there bool
	value string
}

func (m *metadataCommand) state(doc *metadata.Node) (state, error) {
	n, _, err := doc.Find(m.path)
	if err != nil {
		return state{}, nil //nolint:nilerr // that is a state, too
	}
	if n.Leaf() && !m.decode {
		return state{true, n.Value()}, nil
	}
	var b bytes.Buffer
	if m.decode {
		raw, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(n.Value())) // what can't be decoded is as good as none
		b.Write(raw)
	} else if err := n.JSON(&b); err != nil {
		return state{}, err
	}
	return state{true, b.String()}, nil
}

// waitChange waits until the value changes. A service that does not answer is
// asked again: it has not said that anything has changed.
func (m *metadataCommand) waitChange(ctx context.Context) int {
	if m.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, m.timeout)
		defer cancel()
	}
	var known *state
	if m.was != nil {
		known = &state{true, *m.was}
	}
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	var trouble error
	for {
		doc, err := m.fetch(ctx)
		if err == nil {
			var now state
			if now, err = m.state(doc); err == nil {
				if known != nil && now != *known {
					m.refresh(doc)
					return m.show(doc)
				}
				known = &now
			}
		}
		if ctx.Err() == nil {
			trouble = err
		}
		select {
		case <-ctx.Done():
			what := "has not changed"
			if known == nil {
				what = "could not be read"
			}
			return m.fail(exitUnchanged, fmt.Errorf("%s %s within %v%w", cmp.Or(m.path, "the document"), what, m.timeout, because(trouble)))
		case <-tick.C:
		}
	}
}

// fail prints an error and returns the exit code.
func (m *metadataCommand) fail(code int, err error) int {
	fmt.Fprintln(m.Err, "azguest:", err)
	return code
}

package userdata

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/provisioning"
)

// Supervised runs programs that must not be ended in the middle of their work:
// they go on when the agent is stopped, restarted or updated, which one of them
// may cause. Without a Launcher they are run as other tools are.
type Supervised struct {
	Launcher job.Launcher
	Dir      string // of the directories of their runs
	Scoped   bool   // systemd runs: each gets a scope
}

// settle waits for programs that an earlier process of the agent has started.
func (s Supervised) settle(ctx context.Context, m *provisioning.Machine) error {
	entries, err := m.Root.ReadDir(s.Dir)
	if err != nil {
		return nil //nolint:nilerr // none was ever started
	}
	for _, e := range entries {
		dir := m.Root.Path(path.Join(s.Dir, e.Name()))
		if _, ended := job.ResultOf(dir); ended || !e.IsDir() {
			continue
		}
		if _, err := job.Wait(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// run runs a program and returns the end of its output. name is that of the
// directory. When the context ends, the program goes on.
func (s Supervised) run(ctx context.Context, m *provisioning.Machine, name string, c host.Cmd) (host.Result, error) {
	if s.Launcher.Exe == "" {
		return m.Run.Run(ctx, c)
	}
	var words []string
	for _, w := range append([]string{c.Name}, c.Args...) {
		words = append(words, shellQuote(w))
	}
	id := "data-" + name + "-" + strings.ToLower(rand.Text()[:8])
	spec := job.Job{ID: id, Shell: "exec " + strings.Join(words, " "), Dir: m.Root.Path("/"), Env: c.Env, Timeout: c.Timeout, What: "azguest: " + c.Name}
	if s.Scoped {
		spec.Scope = job.ScopeName(id)
	}
	files := path.Join(s.Dir, name)
	dir := m.Root.Path(files)
	if err := s.Launcher.Start(dir, spec); err != nil {
		return host.Result{Code: -1}, err
	}
	res, err := job.Wait(ctx, dir)
	if err != nil {
		return host.Result{Code: -1}, err
	}
	out := host.Result{Code: res.Code}
	out.Stdout, err = tail(m.Root, path.Join(files, job.Stdout))
	errs := []error{err}
	out.Stderr, err = tail(m.Root, path.Join(files, job.Stderr))
	if err := errors.Join(append(errs, err, job.Reported(dir))...); err != nil {
		m.Log.Warn().Err(err).Str("program", c.Name).Msg("output of a program not kept")
	}
	switch res.Class {
	case job.OK:
		return out, nil
	case job.Failed:
		return out, &host.ExitError{Cmd: c.Name, Code: res.Code, Stderr: string(out.Stderr)}
	case job.Timeout:
		return out, fmt.Errorf("%s: not finished after %v and ended", c.Name, c.Timeout)
	}
	return out, fmt.Errorf("%s: %s %s", c.Name, res.Class, res.Error)
}

// tailLimit is how many bytes of an output are read.
const tailLimit = 64 << 10

// tail reads the end of a file.
func tail(r host.Root, name string) ([]byte, error) {
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() > tailLimit {
		_, err = f.Seek(-tailLimit, io.SeekEnd)
	}
	var b []byte
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(f, tailLimit))
	}
	return b, errors.Join(err, f.Close())
}

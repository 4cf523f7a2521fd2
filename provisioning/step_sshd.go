package provisioning

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// ConfigureSSHD makes keywords of sshd's configuration take effect: by a
// drop-in that is read before anything else, or by a block at the very top of
// the main file, where no Include and no Match precedes it. A value that is
// effective already is not written again, so that a later edit of the image's
// own files takes effect. sshd itself checks the result; if it rejects it,
// everything is restored, because a broken sshd_config locks the user out.
type ConfigureSSHD struct {
	Main, Dir  string
	DropIn     bool
	User       string
	Settings   []Setting
	Note       string // file for the values in other files, for YieldSSHD; empty: none
	Restorecon string
}

// ID implements Step.
func (ConfigureSSHD) ID() string { return StepSSHD }

func (s ConfigureSSHD) String() string {
	var b strings.Builder
	b.WriteString("configure sshd:")
	for _, set := range s.Settings {
		b.WriteString(" " + set.Key + "=" + set.Value)
	}
	return b.String()
}

// A verdict is sshd's answer about a configuration.
type verdict struct {
	err   error  // sshd rejects the configuration
	wrong string // the keyword that has another value
	unrun bool   // sshd could not be run
}

// Apply implements Step.
func (s ConfigureSSHD) Apply(ctx context.Context, m *Machine) error {
	bad := func(err error) error {
		return fail(CodeSSHD, "failed to update sshd config", err)
	}
	set := s.Settings
	var last verdict
	for _, t := range s.tries(m.Root) {
		w := t.way
		undo, changed, err := w(t.set)
		if err != nil {
			last.err = err
			continue
		}
		v := s.ask(ctx, m, set)
		if v.err != nil && strings.Contains(strings.ToLower(v.err.Error()), "challengeresponse") {
			// A future sshd may no longer know the old name.
			if err := undo(); err != nil {
				return bad(err)
			}
			set = withoutSetting(set, "ChallengeResponseAuthentication")
			t.set = withoutSetting(t.set, "ChallengeResponseAuthentication")
			if undo, changed, err = w(t.set); err != nil {
				last.err = err
				continue
			}
			v = s.ask(ctx, m, set)
		}
		if v.err == nil && v.wrong == "" {
			if changed {
				m.Restorecon(ctx, s.Restorecon, "-R", s.Dir)
				m.sshdChanged = bootClock()
			}
			if err := s.remember(m.Root); err != nil {
				m.Log.Debug().Err(err).Msg("could not save sshd configuration of other files")
			}
			if v.unrun {
				return warn(CodeSSHD, "sshd configuration could not be tested")
			}
			return nil
		}
		last = v
		if v.wrong != "" && inMatch(readSSHD(m.Root, s.Main, s.Dir, nil), strings.ToLower(v.wrong)) {
			m.sshdChanged = bootClock()
			return warn(CodeSSHD, "a Match block of this image sets another value of %s for %s", v.wrong, s.User)
		}
		if err := undo(); err != nil {
			return bad(err)
		}
		if v.err != nil {
			if base := s.ask(ctx, m, nil); base.err != nil {
				// sshd rejected the configuration before, so these settings
				// are not the reason, and the document requires them.
				if _, _, err := w(t.set); err != nil {
					return bad(err)
				}
				return warn(CodeSSHD, "sshd rejects the configuration of this image: %w", base.err)
			}
		}
	}
	if last.err == nil {
		last.err = fmt.Errorf("sshd still uses another value of %s", last.wrong)
	}
	return bad(last.err)
}

func withoutSetting(set []Setting, key string) []Setting {
	var out []Setting
	for _, x := range set {
		if x.Key != key {
			out = append(out, x)
		}
	}
	return out
}

// A way writes the settings and returns a function that undoes it.
type way func(set []Setting) (undo func() error, changed bool, err error)

type try struct {
	way way
	set []Setting
}

// tries lists the attempts to be made until sshd accepts one: in each way only
// the settings that are needed, then in each way all of them.
func (s ConfigureSSHD) tries(r host.Root) []try {
	var out []try
	needed := s.needed(r)
	sets := [][]Setting{needed, s.Settings}
	if len(needed) == len(s.Settings) {
		sets = sets[1:]
	}
	for _, set := range sets {
		for _, w := range s.ways(r) {
			out = append(out, try{w, set})
		}
	}
	return out
}

// needed returns the settings that are not yet effective, as read by readSSHD.
func (s ConfigureSSHD) needed(r host.Root) []Setting {
	conf := others(readSSHD(r, s.Main, s.Dir, nil))
	var out []Setting
	for _, x := range s.Settings {
		have := sshdDefaults[strings.ToLower(x.Key)]
		if d, ok := effective(conf, namesOf(x.Key)...); ok {
			have = strings.Join(d.Args, " ")
		}
		if !strings.EqualFold(have, x.Value) {
			out = append(out, x)
		}
	}
	return out
}

func (s ConfigureSSHD) ways(r host.Root) []way {
	var out []way
	if s.DropIn {
		out = append(out, func(set []Setting) (func() error, bool, error) {
			return putDropIn(r, s.Dir, set)
		})
	}
	return append(out, func(set []Setting) (func() error, bool, error) {
		old, err := r.ReadFile(s.Main)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
		// The vendor's file under /usr is not changed; a copy in the
		// administrator's directory takes precedence.
		name, next := path.Join(s.Dir, "sshd_config"), withBlock(old, set)
		if len(set) == 0 && string(next) == string(old) {
			return func() error { return nil }, false, nil
		}
		return swap(r, name, next, append([]byte{}, withoutBlock(old)...), 0o600)
	})
}

// putDropIn writes the agent's drop-in, or removes it if there are no
// settings.
func putDropIn(r host.Root, dir string, set []Setting) (undo func() error, changed bool, err error) {
	name := dropIn(dir)
	if len(set) == 0 {
		old, err := r.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return func() error { return nil }, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		return func() error { return r.WriteFile(name, old, 0o600) }, true, r.Remove(name)
	}
	if err := r.MkdirAll(path.Dir(name), 0o755); err != nil {
		return nil, false, err
	}
	return swap(r, name, []byte(dropInHead+renderSettings(set)), nil, 0o600)
}

// swap replaces a file and returns a function that restores it. If the file is
// a link into a read-only tree, the link is replaced. The new content may
// exist already, from an attempt that was interrupted before sshd was asked;
// undo then writes without, the content without the agent's settings, or
// removes the file if that is nil.
func swap(r host.Root, name string, next, without []byte, perm fs.FileMode) (undo func() error, changed bool, err error) {
	old, err := r.ReadFile(name)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return nil, false, err
	}
	if fi, err := r.Stat(name); err == nil {
		perm = fi.Mode().Perm()
	}
	if !missing && string(old) == string(next) {
		return func() error {
			if without == nil {
				return r.Remove(name)
			}
			return r.WriteFile(name, without, perm)
		}, false, nil
	}
	link, _ := r.Readlink(name)
	err = r.WriteFile(name, next, perm)
	if errors.Is(err, unix.EROFS) && link != "" {
		if err = r.Remove(name); err == nil {
			err = r.WriteFile(name, next, perm)
		}
		return func() error {
			return r.Symlink(link, name)
		}, true, err
	}
	if err != nil {
		return nil, false, err
	}
	return func() error {
		if missing {
			return r.Remove(name)
		}
		return r.WriteFile(name, old, perm)
	}, true, nil
}

// ask asks sshd for the values that apply to the user, and compares them.
func (s ConfigureSSHD) ask(ctx context.Context, m *Machine, set []Setting) verdict {
	a, err := m.AskSSHD(ctx, Login{User: s.User})
	switch {
	case host.NotFound(err):
		return verdict{unrun: true}
	case err != nil:
		return verdict{err: err}
	}
	for _, x := range set {
		// A keyword that is not printed is another one's old name.
		if v := a.Value(x.Key); v != "" && v != x.Value {
			return verdict{wrong: x.Key}
		}
	}
	return verdict{}
}

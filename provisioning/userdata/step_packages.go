package userdata

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// A Packager is the program that installs packages.
type Packager string

// The ones that are known.
const (
	APT    Packager = "apt-get"
	DNF    Packager = "dnf"
	TDNF   Packager = "tdnf"
	YUM    Packager = "yum"
	Zypper Packager = "zypper"
)

// findPackager looks for the machine's package manager.
func findPackager(r host.Root) Packager {
	for _, p := range []Packager{APT, DNF, TDNF, YUM, Zypper} {
		if provisioning.Which(r, string(p)) != "" {
			return p
		}
	}
	return ""
}

const (
	// lockWait is how long the lock of the package manager is waited for. After
	// a boot, updates of the distribution often hold it for minutes.
	lockWait = 10 * time.Minute
	// installLimit bounds one command of the package manager.
	installLimit = 30 * time.Minute
	// packagesLimit bounds the whole step: three commands.
	packagesLimit = lockWait + 3*installLimit + time.Minute
)

// Packages fetches the lists of packages, upgrades what is installed, and
// installs packages. A part that fails does not stop the next one.
type Packages struct {
	Packager Packager
	Update   bool // fetch the lists of packages
	Upgrade  bool
	Names    []PackageName
	Runs     Supervised
}

// ID implements provisioning.Step.
func (Packages) ID() string { return "packages" }

func (s Packages) String() string {
	var what []string
	if s.Upgrade {
		what = append(what, "upgrade all packages")
	}
	if len(s.Names) > 0 {
		what = append(what, fmt.Sprintf("install %s", count(len(s.Names), "package")))
	}
	if len(what) == 0 {
		return "fetch the lists of packages"
	}
	return strings.Join(what, " and ")
}

// Apply implements provisioning.Step.
func (s Packages) Apply(ctx context.Context, m *provisioning.Machine) error {
	last, err := s.run(ctx, m)
	if err == nil {
		return nil
	}
	// What the programs print is for root only: addresses of repositories have
	// passwords in them.
	return &provisioning.Warning{ID: CodePackages, Err: err, Words: provisioning.LastWords(last)}
}

// run runs the commands and returns the output of the last one that failed.
func (s Packages) run(ctx context.Context, m *provisioning.Machine) (last host.Result, err error) {
	if s.Packager == "" {
		return last, errors.New("this machine has no package manager that is known (apt-get, dnf, tdnf, yum, zypper)")
	}
	for _, p := range s.Names {
		if strings.HasPrefix(p.Name, "-") || strings.ContainsAny(p.Name+p.Version, " \t\n") {
			return last, fmt.Errorf("%q is no package", p.Name)
		}
	}
	if err := errors.Join(s.Runs.settle(ctx, m), freePackager(ctx, m.Root)); err != nil {
		return last, err
	}
	var errs []error
	for i, c := range s.commands(dpkgInterrupted(m.Root)) {
		res, err := s.Runs.run(ctx, m, fmt.Sprintf("%d-%s", i+1, c.Name), c)
		if ctx.Err() != nil {
			return res, errors.Join(append(errs, err)...)
		}
		if ex, ok := errors.AsType[*host.ExitError](err); ok && !s.accepts(ex.Code) {
			last = res
			errs = append(errs, fmt.Errorf("%s ended with exit code %d", c.String(), ex.Code))
		} else if err != nil && !ok {
			errs = append(errs, err)
		}
	}
	return last, errors.Join(errs...)
}

// accepts reports whether an exit code other than 0 is no failure: zypper(8)
// says with some that a restart is advised (102, 103) or that scripts of
// packages have failed (107).
func (s Packages) accepts(code int) bool {
	return s.Packager == Zypper && (code == 102 || code == 103)
}

// commands returns the commands to run, in order. resume means that dpkg was
// interrupted: it refuses to work until it has configured what is unpacked.
func (s Packages) commands(resume bool) []host.Cmd {
	base, sep := s.Packager.dialect()
	var env []string
	if s.Packager == APT {
		// Nobody is there to be asked; needrestart would end the agent that
		// runs the command.
		env = []string{"DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1"}
	}
	if s.Packager == Zypper {
		env = []string{fmt.Sprintf("ZYPP_LOCK_TIMEOUT=%d", int(lockWait.Seconds()))}
	}
	var out []host.Cmd
	add := func(args ...string) {
		out = append(out, host.Cmd{Name: string(s.Packager), Args: append(append([]string{}, base...), args...), Env: env, Timeout: installLimit})
	}
	if s.Packager == APT && resume {
		out = append(out, host.Cmd{Name: "dpkg", Args: []string{"--force-confold", "--configure", "-a"}, Env: env, Timeout: installLimit})
	}
	verbs := s.Packager.verbs()
	if s.Update {
		add(verbs.update...)
	}
	if s.Upgrade {
		add(verbs.upgrade...)
	}
	if len(s.Names) > 0 {
		args := append(append([]string{}, verbs.install...), "--")
		for _, p := range s.Names {
			if p.Version != "" {
				p.Name += sep + p.Version
			}
			args = append(args, p.Name)
		}
		add(args...)
	}
	return out
}

// dialect returns the options before a verb, and what is between the name of a
// package and its version.
func (p Packager) dialect() (base []string, sep string) {
	switch p {
	case APT:
		return []string{
			"-q", "-y", "-o", "Dpkg::Options::=--force-confold",
			"-o", fmt.Sprintf("DPkg::Lock::Timeout=%d", int(lockWait.Seconds())),
		}, "="
	case Zypper:
		return []string{"--non-interactive"}, "="
	case DNF, TDNF, YUM:
	}
	return []string{"-y"}, "-"
}

// verbs are the words of a package manager.
type verbs struct{ update, upgrade, install []string }

// verbs returns the words for what is to be done. The upgrade of APT is the one
// that cloud-init takes, which may add and remove packages.
func (p Packager) verbs() verbs {
	switch p {
	case APT:
		return verbs{[]string{"update"}, []string{"dist-upgrade"}, []string{"install"}}
	case Zypper:
		return verbs{[]string{"refresh"}, []string{"update"}, []string{"install"}}
	case DNF, TDNF, YUM:
	}
	return verbs{[]string{"makecache"}, []string{"upgrade"}, []string{"install"}}
}

// freePackager waits until no other program changes the installed packages. If
// one still does after lockWait, the command that comes next says so.
func freePackager(ctx context.Context, r host.Root) error {
	for end := time.Now().Add(lockWait); time.Now().Before(end); {
		if who, _ := host.PackageLock(r); who == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
	return nil
}

// dpkgInterrupted reports whether dpkg was ended in the middle of its work: it
// leaves notes of what it has done since its database was written.
func dpkgInterrupted(r host.Root) bool {
	entries, err := r.ReadDir("/var/lib/dpkg/updates")
	return err == nil && len(entries) > 0
}

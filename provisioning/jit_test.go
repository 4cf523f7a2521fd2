package provisioning_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

func TestJITAccounts(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	soon, past := now.Add(time.Hour), now.Add(-time.Minute)
	pw := host.NewSecret("canary-password")
	jit := func(name string) host.Account {
		return host.Account{Name: name, UID: 1500, Gecos: provisioning.JITComment, Home: "/home/" + name}
	}
	user := func(name string, until time.Time) provisioning.JITUser {
		return provisioning.JITUser{Name: name, Password: pw, Expires: until}
	}
	for name, tc := range map[string]struct {
		want []provisioning.JITUser
		have []host.Account
		do   []string
		warn int
	}{
		"nothing asked, nothing there":        {},
		"a new user":                          {want: []provisioning.JITUser{user("ann", soon)}, do: []string{"add the just-in-time user ann until 2026-01-01T13:00:00Z"}},
		"there already":                       {want: []provisioning.JITUser{user("ann", soon)}, have: []host.Account{jit("ann")}},
		"over before it began":                {want: []provisioning.JITUser{user("ann", past)}},
		"expired":                             {want: []provisioning.JITUser{user("ann", past)}, have: []host.Account{jit("ann")}, do: []string{"remove the just-in-time user ann"}},
		"no longer asked for":                 {have: []host.Account{jit("ann")}, do: []string{"remove the just-in-time user ann"}},
		"somebody else's account of the name": {want: []provisioning.JITUser{user("ann", soon)}, have: []host.Account{{Name: "ann", UID: 1000, Gecos: "Ann"}}, warn: 1},
		"a similar comment is not ours":       {have: []host.Account{{Name: "ann", UID: 1000, Gecos: "JIT_Account too"}}},
		"the expiry can't be read":            {want: []provisioning.JITUser{{Name: "ann", Err: errors.New("bad date")}}, have: []host.Account{jit("ann")}, warn: 1},
		"a hostile name":                      {want: []provisioning.JITUser{user("../x", soon), user("root", soon), user("a b", soon)}, warn: 3},
		"no password":                         {want: []provisioning.JITUser{{Name: "ann", Expires: soon}}, warn: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := provisioning.Facts{Accounts: append(tc.have, host.Account{Name: "root"}), Useradd: "/usr/sbin/useradd", Sudo: "/usr/bin/sudo", SudoersDir: true, SudoersIncluded: true, UIDMin: 1000}
			steps, warns := provisioning.JITSteps(tc.want, f, provisioning.Options{}, now)
			var got []string
			for _, s := range steps {
				got = append(got, s.String())
			}
			if strings.Join(got, "|") != strings.Join(tc.do, "|") || len(warns) != tc.warn {
				t.Errorf("steps %q, warnings %v; want %q and %d warnings", got, warns, tc.do, tc.warn)
			}
			for _, w := range warns {
				if strings.Contains(w.Error(), "canary") {
					t.Errorf("password in %q", w)
				}
			}
		})
	}
}

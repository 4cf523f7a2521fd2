package provisioning_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
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
		"telephone numbers of its own":        {have: []host.Account{{Name: "ann", UID: 1500, Gecos: "JIT_Account,1,2,3"}}, do: []string{"remove the just-in-time user ann"}},
		"over, with telephone numbers":        {want: []provisioning.JITUser{user("ann", past)}, have: []host.Account{{Name: "ann", UID: 1500, Gecos: "JIT_Account,room 5"}}, do: []string{"remove the just-in-time user ann"}},
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

// TestJITAccountApplied checks what is done for an account, and that it is
// undone if only part of it succeeds. Other accounts are not changed.
func TestJITAccountApplied(t *testing.T) {
	t.Parallel()
	const ours, theirs = "ann:x:1500:1500:JIT_Account:/home/ann:/bin/bash", "ann:x:1500:1500:Ann:/home/ann:/bin/bash"
	until := time.Date(2026, 1, 31, 23, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		broken  string // the command that fails
		have    string // the account that exists when the step is applied
		remove  bool
		command string // that has to be run
		never   string // that must not be
		fails   bool
	}{
		"the account lasts a day longer": {command: "useradd -m -p * -c JIT_Account -e 2026-02-01", never: "userdel"},
		"half made":                      {broken: "/usr/sbin/visudo", command: "userdel -f -r ann", fails: true},
		"somebody was faster":            {have: theirs, never: "useradd", fails: true},
		"gone":                           {have: ours, remove: true, command: "userdel -f -r ann"},
		"no longer ours":                 {have: theirs, remove: true, never: "userdel", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			passwd := m.read("/etc/passwd")
			if tc.have != "" {
				m.write("/etc/passwd", passwd+tc.have+"\n", 0o644)
			}
			m.run.Answers["useradd"] = hosttest.Answer{Do: func(host.Cmd) error { m.write("/etc/passwd", passwd+ours+"\n", 0o644); return nil }}
			m.run.Answers["userdel"] = hosttest.Answer{Do: func(host.Cmd) error { m.write("/etc/passwd", passwd, 0o644); return nil }}
			m.run.Answers["chpasswd"] = hosttest.Answer{}
			if tc.broken != "" {
				m.run.Answers[tc.broken] = hosttest.Answer{Code: 1}
			}
			sys := m.prov()
			f, err := sys.Gather(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var steps []provisioning.Step
			if tc.remove {
				f.Accounts = []host.Account{{Name: "ann", Gecos: provisioning.JITComment}} // as it was
				steps = provisioning.EndJIT([]string{"ann", "root"}, f)
			} else {
				f.Accounts = nil
				steps, _ = provisioning.JITSteps([]provisioning.JITUser{{Name: "ann", Password: host.NewSecret("Pass w0rd!"), Expires: until}}, f, provisioning.Options{}, until.Add(-time.Hour))
			}
			if len(steps) != 1 {
				t.Fatalf("steps: %v", steps)
			}
			if err := steps[0].Apply(t.Context(), sys); (err != nil) != tc.fails {
				t.Errorf("Apply: %v", err)
			}
			if ran := strings.Join(m.run.Commands(), "\n"); !strings.Contains(ran, tc.command) || tc.never != "" && strings.Contains(ran, tc.never) {
				t.Errorf("ran\n%s", ran)
			}
		})
	}
}

// TestJITUserWithAnotherComment: the owner of a short-lived account may change
// its comment with chfn, and the account is removed nevertheless, also if the
// comment changes between a failed removal and the next.
func TestJITUserWithAnotherComment(t *testing.T) {
	t.Parallel()
	until := time.Date(2026, 1, 31, 23, 0, 0, 0, time.UTC)
	for name, comment := range map[string]string{"as it was": "JIT_Account", "a room": "JIT_Account,5,,", "another name": "Ann", "none": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			passwd := m.read("/etc/passwd")
			line := func(uid, comment string) string {
				return passwd + "ann:x:" + uid + ":" + uid + ":" + comment + ":/home/ann:/bin/bash\n"
			}
			uid := ""
			m.run.Answers["useradd"] = hosttest.Answer{Do: func(c host.Cmd) error {
				uid = c.Args[len(c.Args)-2]
				m.write("/etc/passwd", line(uid, "JIT_Account"), 0o644)
				return nil
			}}
			m.run.Answers["chpasswd"] = hosttest.Answer{}
			gone := hosttest.Answer{Do: func(host.Cmd) error { m.write("/etc/passwd", passwd, 0o644); return nil }}
			m.run.Answers["userdel"] = hosttest.Answer{Code: 1}
			sys := m.prov()
			gather := func() provisioning.Facts {
				t.Helper()
				_ = sys.MendJIT(t.Context())
				f, err := sys.Gather(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
			want := []provisioning.JITUser{{Name: "ann", Password: host.NewSecret("Pass w0rd!"), Expires: until}}
			steps, _ := provisioning.JITSteps(want, gather(), provisioning.Options{}, until.Add(-time.Hour))
			if len(steps) != 1 || steps[0].Apply(t.Context(), sys) != nil {
				t.Fatalf("the user could not be made: %v", steps)
			}
			m.write("/etc/passwd", line(uid, comment), 0o644)
			// As a restarted agent would see it.
			f := gather()
			if steps, warns := provisioning.JITSteps(want, f, provisioning.Options{}, until.Add(-time.Hour)); len(steps)+len(warns) != 0 {
				t.Errorf("in its time: %v %v", steps, warns)
			}
			if steps := provisioning.EndJIT([]string{"ann"}, f); len(steps) != 1 {
				t.Errorf("without the platform: %v", steps)
			}
			steps, _ = provisioning.JITSteps(want, f, provisioning.Options{}, until)
			if len(steps) != 1 {
				t.Fatalf("when it is over: %v", steps)
			}
			if err := steps[0].Apply(t.Context(), sys); err == nil {
				t.Error("no error although userdel failed")
			}
			m.write("/etc/passwd", line(uid, comment+"x"), 0o644)
			m.run.Answers["userdel"] = gone
			if err := sys.MendJIT(t.Context()); err != nil {
				t.Error(err)
			}
			if got := m.read("/etc/passwd"); got != passwd {
				t.Errorf("left:\n%s", got)
			}
			// A later account with the same name and UID is another one.
			m.write("/etc/passwd", line(uid, "Ann"), 0o644)
			if steps, _ := provisioning.JITSteps(nil, gather(), provisioning.Options{}, until); len(steps) != 0 {
				t.Errorf("an administrator's account of the same name: %v", steps)
			}
		})
	}
}

package provisioning_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// An sshdCase is an existing sshd configuration. DIR stands for /etc/ssh.
type sshdCase struct {
	name, main string
	drop       map[string]string // files of sshd_config.d
	dropIn     bool              // the agent's settings go into a drop-in
	broken     bool              // sshd rejects it before any change
	match      bool              // a Match block decides, which gives a warning
}

const incl = "Include DIR/sshd_config.d/*.conf\n"

func sshdCases() []sshdCase {
	return []sshdCase{
		{name: "empty", main: ""},
		{name: "only a newline", main: "\n"},
		{name: "only a comment without newline", main: "# nothing"},
		{name: "no trailing newline", main: "Port 22\nPasswordAuthentication no"},
		{name: "plain yes", main: "PasswordAuthentication no\n"},
		{name: "plain with the other value", main: "PasswordAuthentication yes\n"},
		{name: "lower case", main: "passwordauthentication no\n"},
		{name: "upper case", main: "PASSWORDAUTHENTICATION no\n"},
		{name: "equals sign", main: "PasswordAuthentication=no\n"},
		{name: "blank equals blank", main: "PasswordAuthentication = no\n"},
		{name: "quoted value", main: "PasswordAuthentication \"no\"\n"},
		{name: "tabs", main: "\tPasswordAuthentication\t\tno\t\n"},
		{name: "indented", main: "    PasswordAuthentication no\n"},
		{name: "CRLF", main: "Port 22\r\nPasswordAuthentication no\r\nUsePAM yes\r\n"},
		{name: "form feed", main: "PasswordAuthentication no\f\n"},
		{name: "trailing comment", main: "PasswordAuthentication no # never\n"},
		{name: "duplicates", main: "PasswordAuthentication no\nPasswordAuthentication yes\nPasswordAuthentication no\n"},
		{name: "commented out", main: "#PasswordAuthentication no\n# PasswordAuthentication no\n"},
		{name: "prefix of another keyword", main: "PubkeyAuthentication yes\nPasswordAuthentication no\n"},
		{name: "trailing Match", main: "Port 22\nMatch User nobody\n  X11Forwarding no\n"},
		{name: "trailing Match without newline", main: "Port 22\nMatch User nobody\n  X11Forwarding no"},
		{name: "indented Match", main: "Port 22\n  Match User nobody\n    PasswordAuthentication no\n"},
		{name: "lower case match", main: "match user nobody\npasswordauthentication no\n"},
		{name: "Match first", main: "Match User nobody\n  X11Forwarding no\nMatch Group nogroup\n  PermitTTY no\n"},
		{name: "Match ended by Match all", main: "Match User nobody\n  X11Forwarding no\nMatch all\nPasswordAuthentication no\n", match: true},
		{name: "Match address", main: "Match Address 10.0.0.0/8\n  PasswordAuthentication no\n"},
		{name: "Match negated", main: "Match User !azureuser,nobody\n  PasswordAuthentication no\n"},
		{name: "two Matches of one user", main: "Match User nobody\n PermitTTY no\nMatch User nobody\n X11Forwarding no\n"},
		{name: "Match decides for us, other value", main: "Match User azureuser\n  PasswordAuthentication no\n", match: true},
		{name: "Match all decides at the end", main: "Match all\n  PasswordAuthentication no\n", match: true},
		{name: "include first, empty directory", main: incl + "PasswordAuthentication no\n", dropIn: true},
		{name: "include first, a 50-", main: incl, drop: map[string]string{"50-cloud-init.conf": "PasswordAuthentication no\n"}, dropIn: true},
		{name: "include first, 00-aaa sorts before ours", main: incl, drop: map[string]string{"00-aaa.conf": "PasswordAuthentication no\n"}},
		{name: "include first, 0.conf sorts before ours", main: incl, drop: map[string]string{"0.conf": "KbdInteractiveAuthentication no\n"}},
		{name: "include lower case", main: strings.ToLower(incl[:7]) + incl[7:] + "PasswordAuthentication no\n", dropIn: true},
		{name: "include relative", main: "Include sshd_config.d/*.conf\nPasswordAuthentication no\n", dropIn: true},
		{name: "include two patterns", main: "Include DIR/other/*.conf DIR/sshd_config.d/*.conf\n", dropIn: true},
		{name: "include quoted", main: "Include \"DIR/sshd_config.d/*.conf\"\n", dropIn: true},
		{name: "include after the setting", main: "PasswordAuthentication no\n" + incl},
		{name: "include after another keyword's old name", main: "ChallengeResponseAuthentication no\n" + incl},
		{name: "include at the end", main: "Port 22\nUsePAM yes\n" + incl, dropIn: true},
		{name: "include at the end without newline", main: "Port 22\n" + strings.TrimSpace(incl), dropIn: true},
		{name: "include inside a Match", main: "Match User nobody\n" + incl},
		{name: "include after Match all", main: "Match User nobody\nX11Forwarding no\nMatch all\n" + incl, dropIn: true},
		{name: "include commented out", main: "#" + incl + "PasswordAuthentication no\n"},
		{name: "include of one file", main: "Include DIR/sshd_config.d/mine.conf\n", drop: map[string]string{"mine.conf": "PasswordAuthentication no\n"}},
		{name: "include of .cf files only", main: "Include DIR/sshd_config.d/*.cf\n"},
		{name: "include twice", main: incl + incl, dropIn: true},
		{name: "drop-in with a Match at its end", main: incl + "PasswordAuthentication no\n", drop: map[string]string{"00-a.conf": "Match User nobody\nX11Forwarding no\n"}, dropIn: true},
		{name: "drop-in that includes", main: incl, drop: map[string]string{"10-x.conf": "Include DIR/sshd_config.d/deep\n", "deep": "PasswordAuthentication no\n"}, dropIn: true},
		{name: "hidden drop-in", main: incl, drop: map[string]string{".hidden.conf": "PasswordAuthentication no\n"}, dropIn: true},
		{name: "drop-in of an older run", main: incl, drop: map[string]string{"00-azguest.conf": "PasswordAuthentication no\n"}, dropIn: true},
		{name: "old block of ours", main: "# azguest: begin. Set at provisioning; sshd takes the first value it reads.\nPasswordAuthentication no\n# azguest: end\nPort 22\n"},
		{name: "begin without end", main: "# azguest: begin. Set at provisioning; sshd takes the first value it reads.\nPasswordAuthentication no\nPort 22\n"},
		{name: "waagent's edit", main: "Port 22\nPasswordAuthentication no\nChallengeResponseAuthentication no\nClientAliveInterval 180\nUsePAM yes\n"},
		{name: "azure-init's edit", main: "PasswordAuthentication no # modified by azure-init\n"},
		{name: "kbdinteractive both names", main: "KbdInteractiveAuthentication no\nChallengeResponseAuthentication no\n"},
		{name: "authentication methods", main: "AuthenticationMethods publickey,password publickey\n"},
		{name: "long file", main: strings.Repeat("# a long comment\n", 5000) + "PasswordAuthentication no\n"},
		{name: "unknown keyword", main: "Port 22\nNoSuchKeyword yes\n", broken: true},
		{name: "bad value", main: "Port banana\n", broken: true},
		{name: "unknown keyword in a drop-in", main: incl, drop: map[string]string{"50-x.conf": "Bogus 1\n"}, broken: true, dropIn: true},
		{name: "Match without condition", main: "Match\nX11Forwarding no\n", broken: true},
		{name: "bad Match", main: "Match Frobnicate x\n", broken: true},
	}
}

func TestHostileSSHDConfigurations(t *testing.T) {
	t.Parallel()
	cases := sshdCases()
	if len(cases) < 50 {
		t.Fatalf("%d cases", len(cases))
	}
	for part := range 2 {
		t.Run(fmt.Sprintf("part %d", part+1), func(t *testing.T) {
			t.Parallel()
			if !insideBox(t) {
				return
			}
			hostKey := prepareSSHD(t)
			for i, tc := range cases {
				if i%2 == part {
					t.Run(fmt.Sprintf("%02d %s", i, tc.name), func(t *testing.T) { tc.test(t, hostKey) })
				}
			}
		})
	}
}

// prepareSSHD makes sure that sshd can be run on the machine, and returns a
// host key.
func prepareSSHD(t *testing.T) []byte {
	t.Helper()
	sh(t, "mkdir -p /run/sshd; id sshd >/dev/null; rm -f /tmp/key*; ssh-keygen -q -t ed25519 -N '' -f /tmp/key")
	key, err := os.ReadFile("/tmp/key")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// resetSSHD writes the configuration of a case to the machine.
func resetSSHD(t *testing.T, hostKey []byte, main string, drop map[string]string) {
	t.Helper()
	if err := os.RemoveAll("/etc/ssh"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/etc/ssh/sshd_config.d", 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"ssh_host_ed25519_key": string(hostKey), "sshd_config": strings.ReplaceAll(main, "DIR", "/etc/ssh")}
	for name, text := range drop {
		files["sshd_config.d/"+name] = strings.ReplaceAll(text, "DIR", "/etc/ssh")
	}
	for name, text := range files {
		perm := os.FileMode(0o644)
		if name == "ssh_host_ed25519_key" {
			perm = 0o600
		}
		if err := os.WriteFile("/etc/ssh/"+name, []byte(text), perm); err != nil {
			t.Fatal(err)
		}
	}
}

// askSSHD returns the effective values of the password keywords for the user.
func askSSHD(t *testing.T) string {
	t.Helper()
	out, _ := exec.CommandContext(t.Context(), "sshd", "-T", "-C", "user=azureuser,host=h,addr=127.0.0.1").Output() // sshd rejects some
	var lines []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "passwordauthentication ") || strings.HasPrefix(line, "kbdinteractiveauthentication ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// sshdFiles returns the files of the configuration, by name.
func sshdFiles(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir("/etc/ssh", func(name string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(name)
		files[strings.TrimPrefix(name, "/etc/ssh/")] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// test applies the step to the configuration of the case, twice for each
// value, and checks what sshd reads from it.
func (tc sshdCase) test(t *testing.T, hostKey []byte) {
	resetSSHD(t, hostKey, tc.main, tc.drop)
	before, effBefore := sshdFiles(t), askSSHD(t)
	for _, want := range []string{"yes", "no"} {
		t.Run(want, func(t *testing.T) {
			resetSSHD(t, hostKey, tc.main, tc.drop)
			wantEff := "kbdinteractiveauthentication " + want + "\npasswordauthentication " + want
			// Values that are effective already need not be written.
			needless := effBefore == wantEff && tc.drop["00-azguest.conf"] == "" && !strings.Contains(tc.main, "# azguest")
			out := runSSHDStep(t, want)
			after, eff := sshdFiles(t), askSSHD(t)
			if diff := cmp.Diff(before, after); needless && diff != "" {
				t.Errorf("changed without need (-before +after)\n%s", diff)
			}
			switch {
			case tc.broken:
				if !strings.Contains(out, "rejects the configuration of this image") {
					t.Errorf("no warning: %s", out)
				}
			case tc.match && want == "yes":
				if !strings.Contains(out, "Match block") {
					t.Errorf("no warning: %s", out)
				}
			default:
				if out != "fine" {
					t.Errorf("said %s", out)
				}
				if eff != wantEff {
					t.Errorf("effective %q, want %q", eff, wantEff)
				}
			}
			_, dropIn := after["sshd_config.d/00-azguest.conf"]
			if had := tc.drop["00-azguest.conf"] != ""; dropIn != (tc.dropIn && !needless) && !had && !tc.broken {
				t.Errorf("drop-in %v, want %v", dropIn, tc.dropIn)
			}
			if diff := cmp.Diff(before["sshd_config"], after["sshd_config"]); tc.dropIn && diff != "" {
				t.Errorf("the main file was changed (-before +after)\n%s", diff)
			}
			runSSHDStep(t, want)
			if diff := cmp.Diff(after, sshdFiles(t)); diff != "" {
				t.Errorf("a second run changed something (-first +second)\n%s", diff)
			}
		})
	}
}

// sandboxed returns the machine on which the test runs, inside a sandbox.
func sandboxed(t *testing.T) *provisioning.Machine {
	t.Helper()
	if os.Getenv(aloneEnv) == "" {
		t.Fatal("not in a sandbox")
	}
	sys := &provisioning.System{Root: "/", Run: host.Exec{}, Kernel: host.LinuxKernel(), Events: event.Discard{}, Log: zerolog.Nop()}
	return provisioning.NewMachine(sys, provisioning.Options{}, provisioning.Identity{ID: vmID})
}

// runSSHDStep applies the step that configures sshd and returns the text of
// its error, or "fine".
func runSSHDStep(t *testing.T, value string) string {
	t.Helper()
	m := sandboxed(t)
	f, err := m.Gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := input()
	in.DisablePasswordAuth = new(value == "no")
	steps, err := provisioning.Plan(in, f, m.Options)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(steps, func(s provisioning.Step) bool { return s.ID() == provisioning.StepSSHD })
	if i < 0 {
		return "the plan has no such step"
	}
	if err := steps[i].Apply(t.Context(), m); err != nil {
		return err.Error()
	}
	return "fine"
}

// TestLaterEditsCount: edits after provisioning, by an administrator or by
// VMAccess for a customer who is locked out, must take effect, although the
// agent's lines are read first. Values from before provisioning must not take
// effect.
func TestLaterEditsCount(t *testing.T) {
	t.Parallel()
	if !insideBox(t) {
		return
	}
	hostKey := prepareSSHD(t)
	sh(t, "mkdir -p /var/lib/waagent/azguest")
	yield := func(t *testing.T) string {
		given, err := sandboxed(t).YieldSSHD(t.Context())
		if err != nil {
			t.Log(err) // only the keywords that are given up matter here
		}
		return fmt.Sprint(given)
	}
	const dropIn, head = "/etc/ssh/sshd_config.d/00-azguest.conf", "# azguest: begin"
	for _, tc := range []struct {
		name, main string
		edit       string // made after provisioning with "no"
		given      string
		password   string // in the end
		left       string // of our drop-in
	}{
		{name: "nothing", main: incl, given: "[]", password: "no"},
		{name: "another keyword", main: incl + "PasswordAuthentication yes\n", edit: "echo 'X11Forwarding no' >>/etc/ssh/sshd_config", given: "[]", password: "no"},
		{
			name: "VMAccess appends", main: incl, edit: "printf 'ChallengeResponseAuthentication no\nPasswordAuthentication yes\n' >>/etc/ssh/sshd_config",
			given: "[passwordauthentication]", password: "yes", left: "KbdInteractiveAuthentication no\nChallengeResponseAuthentication no",
		},
		{
			name: "VMAccess replaces", main: incl + "PasswordAuthentication no\nMatch User nobody\nX11Forwarding no\n", edit: "sed -i 's/^PasswordAuthentication no/PasswordAuthentication yes/' /etc/ssh/sshd_config",
			given: "[]", password: "yes", // the value was set already
		},
		{name: "the old value said once more", main: incl + "PasswordAuthentication yes\n", edit: "sed -i 's/yes/YES/' /etc/ssh/sshd_config", given: "[]", password: "no"},
		{name: "a drop-in", main: incl, edit: "echo 'PasswordAuthentication yes' >/etc/ssh/sshd_config.d/50-x.conf", given: "[passwordauthentication]", password: "yes"},
		{name: "in a Match", main: incl, edit: "printf 'Match User nobody\nPasswordAuthentication yes\n' >>/etc/ssh/sshd_config", given: "[]", password: "no"},
		{
			name: "both", main: incl, edit: "printf 'PasswordAuthentication yes\nKbdInteractiveAuthentication yes\n' >>/etc/ssh/sshd_config",
			given: "[passwordauthentication kbdinteractiveauthentication challengeresponseauthentication]", password: "yes",
		},
		{name: "no include, VMAccess edits our block", main: "Port 22\n", edit: "sed -i 's/^PasswordAuthentication.*/PasswordAuthentication yes/' /etc/ssh/sshd_config", given: "[]", password: "yes"},
		{name: "no include, an editor appends", main: "Port 22\n", edit: "echo PasswordAuthentication yes >>/etc/ssh/sshd_config", given: "[passwordauthentication]", password: "yes"},
		{name: "an edit that sshd refuses", main: incl, edit: "printf 'PasswordAuthentication yes\nNoSuchThing 1\n' >>/etc/ssh/sshd_config", given: "[]", password: ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sh(t, "rm -f /var/lib/waagent/azguest/sshd.json")
			resetSSHD(t, hostKey, tc.main, nil)
			if out := runSSHDStep(t, "no"); out != "fine" {
				t.Fatal(out)
			}
			if tc.edit != "" {
				sh(t, tc.edit)
			}
			before := sh(t, "cat "+dropIn+" 2>/dev/null || true")
			given := yield(t)
			if given != tc.given {
				t.Errorf("gave up %s, want %s", given, tc.given)
			}
			eff := sh(t, "sshd -T 2>/dev/null | sed -n 's/^passwordauthentication //p'")
			if eff != tc.password {
				t.Errorf("passwords %q, want %q", eff, tc.password)
			}
			after := sh(t, "cat "+dropIn+" 2>/dev/null || true")
			if given == "[]" && after != before {
				t.Errorf("the drop-in was\n%s\nand is\n%s", before, after)
			}
			if tc.left != "" && !strings.HasSuffix(after, "\n"+tc.left) {
				t.Errorf("of the drop-in is left\n%s\nwant\n%s", after, tc.left)
			}
			if again := yield(t); again != "[]" {
				t.Errorf("a second look gave up %s", again)
			}
			if got := sh(t, "cat /etc/ssh/sshd_config"); strings.Count(got, head) > 1 {
				t.Errorf("blocks: %s", got)
			}
		})
	}
}

func TestARefusedConfigurationIsRolledBack(t *testing.T) {
	t.Parallel()
	// An sshd that rejects only the agent's keywords.
	m := newMachine(t, "debian")
	before := m.tree()
	m.run.Answers["/usr/sbin/sshd"] = answerIf(func() bool {
		return m.root.Exists("/etc/ssh/sshd_config.d/00-azguest.conf") || strings.Contains(m.read("/etc/ssh/sshd_config"), "azguest")
	}, "line 1: Bad configuration option")
	f, err := m.prov().Gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	steps, err := provisioning.Plan(input(), f, options())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if s.ID() == provisioning.StepSSHD {
			err = s.Apply(t.Context(), m.prov())
		}
	}
	if got := provisioning.CodeOf(err); err == nil || got != provisioning.CodeSSHD {
		t.Errorf("error %v, code %s", err, got)
	}
	after := m.tree()
	delete(after, "/etc/ssh/sshd_config.d") // the empty directory stays
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("not as before (-before +after):\n%s", diff)
	}
}

package packages

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/release"
	"github.com/azguest/azguest/test/sandbox"
)

// readme returns the command lines in README.md.
func readme(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	must(t, err)
	var out []string
	for line := range strings.Lines(string(b)) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			out = append(out, strings.TrimSpace(code))
		}
	}
	return out
}

// notRun are lines that this test does not run as they are, with the reason.
var notRun = map[string]string{
	"agentctl generalize --yes --shutdown":                             "ends the machine; provisioning/generalize tests it",
	"systemctl restart azguest && azguest hooks run preempt":           "needs systemd; test/nspawn restarts the agent, and the second command is run here",
	"systemctl restart azguest && agentctl policy explain Contoso.App": "needs systemd; test/nspawn restarts the agent, and the second command is run here",
}

// TestTOOL2ReadmeCommandsWork runs every command of README.md as it is typed, or
// proves that its words are known where it takes minutes, another distribution
// or a cloud.
func TestTOOL2ReadmeCommandsWork(t *testing.T) {
	t.Parallel()
	programs(t, "openssl", "dpkg")
	s := tryout(t)
	work := t.TempDir()
	_, err := output(t.Context(), work, nil, "sh", "-euc", `
touch azguest_3.0.0.9_amd64.deb azguest_3.0.0.9_arm64.deb azguest-3.0.0.9-1.x86_64.rpm azguest-3.0.0.9-1.aarch64.rpm Contoso.App__1.0.0.zip
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout sign.key -out sign.pem 2>/dev/null`)
	must(t, err)
	lines := readme(t)
	if len(lines) < 25 {
		t.Fatalf("%d commands in README.md", len(lines))
	}
	for _, line := range lines {
		command, _, _ := strings.Cut(line, "  #")
		command = strings.TrimSpace(command)
		words := strings.Fields(command)
		if why, ok := notRun[command]; ok {
			t.Logf("not run: %s: %s", command, why)
			if _, second, ok := strings.Cut(command, "&& "); ok {
				command, words = second, strings.Fields(second)
			} else {
				continue
			}
		}
		switch {
		case strings.HasPrefix(words[0], "./scripts/"): // takes minutes; CI runs them
			text, err := os.ReadFile(filepath.Join("../..", words[0]))
			must(t, err)
			for _, flag := range words[1:] {
				if !strings.Contains(string(text), flag+")") && !strings.Contains(string(text), flag) {
					t.Errorf("%s: the script does not know %s", command, flag)
				}
			}
			_, err = output(t.Context(), "../..", nil, words[0], "--help")
			must(t, err)
		case words[0] == "#cloud-config", strings.HasSuffix(words[0], ":"): // a document
		case words[0] == "[Service]", strings.HasPrefix(words[0], "Exec"), strings.HasPrefix(words[0], "EnvironmentFile="): // a unit
		case words[0] == "agentctl", words[0] == "azguest", words[0] == "eval", words[0] == "install", words[0] == "echo":
			// Nobody makes this machine ready, and nothing changes.
			command = strings.NewReplacer("--timeout 5m", "--timeout 10ms", "--timeout 1h", "--timeout 10ms").Replace(command)
			r, err := s.RunCmd(t.Context(), sandbox.Cmd{Args: []string{"sh", "-c", command}, Dir: "/root"})
			// The agent is not running, so many commands fail, but not for how they are written.
			if r.Code == 64 || r.Code < 0 || r.Code > 6 || err != nil && words[0] != "agentctl" && words[0] != "azguest" || strings.Contains(r.Stderr, "Usage") {
				t.Errorf("%s: exit code %d: %v %s", command, r.Code, err, r.Stderr)
			}
		case words[0] == "openssl":
			if _, err := output(t.Context(), work, nil, "sh", "-euc", command); err != nil {
				t.Error(err)
			}
		case words[0] == "apt", words[0] == "dnf":
			// The names, in the folder that scripts/package has filled for all architectures.
			names := strings.NewReplacer("apt install ", "ls ", "dnf install --allowerasing ", "ls ").Replace(command)
			out, err := output(t.Context(), work, nil, "sh", "-euc", names)
			if err != nil || len(strings.Fields(out)) != 1 {
				t.Errorf("%s: the command names %q (%v)", command, out, err)
			}
		case strings.HasPrefix(command, `"`):
			if !json.Valid([]byte("{" + command + "}")) {
				t.Errorf("%s: not JSON", command)
			}
		case words[0] == "fabric", words[0] == "az", words[0] == "export":
			// TestTOOL2ReadmeFabricCommands, TestTOOL13AzureCLI and TestAzureCLI.
		default:
			t.Errorf("%s: nothing tests this command", line)
		}
	}
}

// tryout returns a sandbox with the agent's programs.
func tryout(t *testing.T) *sandbox.Sandbox {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
	s, err := sandbox.New(t.Context(), sandbox.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	must(t, s.Install(release.Binary(t, "azguest"), "/usr/sbin/azguest", 0o755))
	must(t, s.Install(release.Binary(t, "agentctl"), "/usr/bin/agentctl", 0o755))
	_, err = s.Run(t.Context(), "sh", "-euc", "echo ca >/root/contoso-ca.pem; echo '#!/bin/sh' >/root/drain.sh; echo '#cloud-config' >/root/config.yml; mkdir -p /mnt/image")
	must(t, err)
	return s
}

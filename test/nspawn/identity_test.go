package nspawn

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// verifyImage runs "image verify" on a tree of read-only layers, top first,
// that is mounted for it, and returns the faults and the exit code.
func verifyImage(t *testing.T, layers ...string) (faults []string, code int) {
	t.Helper()
	const script = `
mount -t overlay -o "lowerdir=$1" overlay "$2"
exec "$2/usr/sbin/azguest" image verify --json --profile immutable --root "$2"
`
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "verify", strings.Join(layers, ":"), t.TempDir())
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	var got struct {
		Fit      bool
		Findings []struct {
			Code, Path, Text string
			Fatal            bool
		}
	}
	if jerr := json.Unmarshal(b, &got); jerr != nil {
		t.Fatalf("%v: %v\n%s", err, jerr, b)
	}
	for _, f := range got.Findings {
		if f.Fatal {
			faults = append(faults, f.Code+" "+f.Path)
		}
	}
	if got.Fit != (len(faults) == 0) || got.Fit != (cmd.ProcessState.ExitCode() == 0) {
		t.Errorf("fit: %v, exit code %d, faults %v", got.Fit, cmd.ProcessState.ExitCode(), faults)
	}
	return faults, cmd.ProcessState.ExitCode()
}

// TestIdentityFreshImage: an image of Debian with cloud-init and the agent, on
// which nothing has run yet, has no faults; with a key of a machine it has one,
// and the check ends with 1.
func TestIdentityFreshImage(t *testing.T) {
	t.Parallel()
	need(t)
	im := theOneImage(t)
	// mmdebstrap has copied this machine's.
	own := t.TempDir()
	if err := os.MkdirAll(filepath.Join(own, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own, "etc/resolv.conf"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if faults, code := verifyImage(t, own, im.layer, im.base); len(faults) > 0 || code != 0 {
		t.Errorf("a fresh image: %v, exit code %d", faults, code)
	}
	top := t.TempDir()
	if err := os.MkdirAll(filepath.Join(top, "etc/nvme"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(top, "etc/nvme/hostnqn"), []byte("nqn.2014-08.org.nvmexpress:uuid:x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if faults, code := verifyImage(t, top, own, im.layer, im.base); strings.Join(faults, "") != "nvme-host-id /etc/nvme/hostnqn" || code != 1 {
		t.Errorf("with a host NQN: %v, exit code %d", faults, code)
	}
}

// TestIdentityM1UnderSystemd: a machine that was provisioned and used is
// generalized and powered off. What its services write while they stop is not
// on its disk.
func TestIdentityM1UnderSystemd(t *testing.T) {
	t.Parallel()
	m := newMachine(t, order{noCloudInit: true, files: map[string]string{
		"/etc/systemd/system/late.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\n" +
			"ExecStop=/bin/sh -c 'mkdir -p /var/lib/NetworkManager /var/lib/systemd; echo stopped >/root/.bash_history; echo key >/var/lib/NetworkManager/secret_key; echo seed >/var/lib/systemd/random-seed; echo 1 >/var/late'\n",
	}})
	m.on()
	m.ready()
	m.sh("systemctl start late.service; echo ls >/root/.bash_history")
	if got := m.sh("agentctl generalize --yes --shutdown"); !strings.Contains(got, "remove again at shutdown") {
		t.Errorf("the plan:\n%s", got)
	}
	<-m.done
	m.cut()
	upper := filepath.Join(m.dir, "upper")
	if b, err := os.ReadFile(filepath.Join(upper, "var/late")); err != nil || string(b) != "1\n" {
		t.Errorf("the service was not stopped: %q %v", b, err)
	}
	if faults, _ := verifyImage(t, append([]string{upper}, strings.Split(m.lower, ":")...)...); len(faults) > 0 {
		t.Errorf("left on the disk: %v", faults)
	}
}

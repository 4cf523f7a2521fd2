package oracle

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/azguest/azguest/test/machine/machinetest"
	"github.com/azguest/azguest/test/sandbox"
)

func TestMain(m *testing.M) {
	machinetest.Main(m, func() { _ = os.RemoveAll(made) }) // what stays is in the temporary folder
}

// hostName and user are those of the machine, before any document.
const (
	hostName = "first-light"
	user     = "azureuser"
)

// A document is what a machine is given.
type document struct {
	name    string
	user    string // user data
	vendor  string // vendor data
	custom  bool   // azguest gets user as custom data, not as user data
	prepare string // shell, before anything else
	boots   int    // default 1
}

//go:embed look.py
var lookScript []byte

// facts are lines of look.py.
type facts []string

// minus returns the lines that are not in other.
func (f facts) minus(other facts) facts {
	count := map[string]int{}
	for _, line := range other {
		count[line]++
	}
	var out facts
	for _, line := range f {
		if count[line]--; count[line] < 0 {
			out = append(out, line)
		}
	}
	return out
}

// change returns what is different from before: "+" lines and "-" lines.
func (f facts) change(before facts) facts {
	var out facts
	for _, line := range f.minus(before) {
		out = append(out, "+"+line)
	}
	for _, line := range before.minus(f) {
		// The account of the order is there before azguest looks at the
		// document; cloud-init makes it only if users has "default".
		if !strings.Contains(" "+line+" ", " "+user+" ") && !strings.Contains(line, "/home/"+user) {
			out = append(out, "-"+line)
		}
	}
	slices.Sort(out)
	return out
}

// look returns the facts of a machine.
func look(ctx context.Context, s *sandbox.Sandbox) (facts, error) {
	r, err := s.RunCmd(ctx, sandbox.Cmd{Args: []string{"python3", "-"}, Stdin: bytes.NewReader(lookScript)})
	if err != nil {
		return nil, fmt.Errorf("look at the machine: %w: %s", err, r.Stderr)
	}
	lines := facts(strings.Split(strings.TrimSpace(r.Stdout), "\n"))
	// cloud-init gives the keys of the account to root too, with a command that
	// says who can log in instead. azguest leaves root's keys alone.
	lines = slices.DeleteFunc(lines, func(line string) bool {
		return strings.HasPrefix(line, "key root ") && strings.Contains(line, "Please login as the user")
	})
	slices.Sort(lines)
	return lines, nil
}

// prepare is what Debian's packages do when they are installed, and what both
// machines have before anything else: their name in /etc/hosts, and root's own
// file of keys.
const prepare = `set -e
mkdir -p /run/lock /etc/chrony/conf.d /etc/chrony/sources.d
cp /usr/share/chrony/chrony.conf /etc/chrony/chrony.conf
printf '127.0.0.1 localhost\n127.0.1.1 ` + hostName + `\n' >/etc/hosts
install -d -m 700 /root/.ssh
install -m 600 /dev/null /root/.ssh/authorized_keys
`

// layers are the programs that both machines have: those that cloud-init needs,
// and what the documents configure. Each is made once.
var layers = sync.OnceValues(func() ([]string, error) {
	var out []string
	// chrony and timesyncd exclude each other as packages, but not as files.
	for _, packages := range [][]string{{"cloud-init", "sudo", "openssh-server"}, {"chrony"}, {"systemd-timesyncd"}} {
		layer, err := sandbox.DebianLayer(context.Background(), packages...)
		if err != nil {
			return nil, err
		}
		if layer != "" {
			out = append(out, layer)
		}
	}
	repo, err := repository()
	if err != nil {
		return nil, err
	}
	// Unpacked packages are not compiled: Python would do it on each machine.
	for _, layer := range out {
		const modules = "usr/lib/python3/dist-packages"
		if _, err := os.Stat(filepath.Join(layer, modules)); err != nil {
			continue
		}
		compile := fmt.Sprintf("mkdir -p %[2]s && cp -a %[1]s %[2]s && python3 -m compileall -q %[2]s || :", filepath.Join(layer, modules), filepath.Join(repo, filepath.Dir(modules)))
		if text, err := exec.Command("sh", "-c", compile).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("compile cloud-init: %w: %s", err, text)
		}
	}
	return append([]string{repo}, out...), nil
})

// need skips the test where the machines can't be made, and returns their layers.
func need(t *testing.T) []string {
	t.Helper()
	machinetest.Need(t)
	l, err := layers()
	if err != nil {
		t.Skipf("cloud-init is not available: %v", err)
	}
	if v := release(l); v != oracleRelease {
		t.Skipf("this is cloud-init %s, and the table of differences is that of %s, in Debian 12", v, oracleRelease)
	}
	return l
}

// oracleRelease is the release of cloud-init that the documents were compared
// with.
const oracleRelease = "22.4"

// release returns the release of cloud-init on a machine with these layers.
func release(layers []string) string {
	for _, dir := range append(slices.Clone(layers), "/") {
		b, err := os.ReadFile(filepath.Join(dir, "usr/lib/python3/dist-packages/cloudinit/version.py"))
		if err != nil {
			continue
		}
		if m := regexp.MustCompile(`__VERSION__ = "([0-9]+\.[0-9]+)`).FindSubmatch(b); m != nil {
			return string(m[1])
		}
	}
	return "unknown"
}

// repoPath is where the machines find the repository of apt.
const repoPath = "/usr/local/lib/oracle"

// repository returns a layer with a repository of small packages, which is the
// only one that apt knows.
func repository() (_ string, err error) {
	dir, err := os.MkdirTemp("", "azguest-oracle-")
	if err != nil {
		return "", err
	}
	made = dir
	repo, sources := filepath.Join(dir, repoPath), filepath.Join(dir, "etc/apt/sources.list")
	for _, d := range []string{repo, filepath.Dir(sources)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	index := ""
	for _, p := range [][2]string{{"oracle-tool", "1.0"}, {"oracle-tool", "2.0"}, {"oracle-lib", "1.5"}} {
		entry, err := debianPackage(repo, p[0], p[1])
		if err != nil {
			return "", err
		}
		index += entry
	}
	return dir, errors.Join(
		os.WriteFile(filepath.Join(repo, "Packages"), []byte(index), 0o644),
		os.WriteFile(sources, []byte("deb [trusted=yes] file:"+repoPath+" ./\n"), 0o644),
	)
}

// made is the directory that repository has made; empty if none.
var made string

// debianPackage builds a package without files and returns its entry in the
// index of the repository.
func debianPackage(repo, name, version string) (string, error) {
	tree, err := os.MkdirTemp("", "azguest-deb-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tree)
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: azguest <azguest@example.org>\nDescription: package of a test\n", name, version)
	file := fmt.Sprintf("%s_%s_all.deb", name, version)
	if err := errors.Join(os.Mkdir(filepath.Join(tree, "DEBIAN"), 0o755), os.WriteFile(filepath.Join(tree, "DEBIAN/control"), []byte(control), 0o644)); err != nil {
		return "", err
	}
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", tree, filepath.Join(repo, file)).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build package %s: %w: %s", name, err, out)
	}
	sum, err := exec.Command("sha256sum", filepath.Join(repo, file)).Output()
	if err != nil {
		return "", err
	}
	fi, err := os.Stat(filepath.Join(repo, file))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%sFilename: ./%s\nSize: %d\nSHA256: %.64s\n\n", control, file, fi.Size(), sum), nil
}

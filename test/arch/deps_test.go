package arch

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// table reads the lines of a file in testdata, without comments.
func table(t *testing.T, name string, columns int) [][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var out [][]string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) < columns {
			t.Errorf("%s: %q has fewer than %d columns", name, line, columns)
			continue
		}
		out = append(out, f)
	}
	return out
}

// goList runs "go list" with the build tags of the release, without the
// network.
func goList(t *testing.T, arch string, args ...string) []string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", append([]string{"list", "-tags", "nethttpomithttp2"}, args...)...)
	c.Dir = root(t)
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=-mod=readonly")
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

var pseudo = regexp.MustCompile(`[.-]\d{14}-[0-9a-f]{12}$`)

// TestSEC13ModulesOfTheRelease: a program that runs as root may only contain
// modules that were explicitly approved.
func TestSEC13ModulesOfTheRelease(t *testing.T) {
	t.Parallel()
	sources(t, false) // makes the test cache depend on the sources
	want := map[string]string{}
	for _, f := range table(t, "deps.txt", 3) {
		if want[f[1]] != "" {
			t.Errorf("%s is there twice", f[1])
		}
		want[f[1]] = f[0]
	}
	for _, arch := range []string{"amd64", "arm64"} {
		have := map[string]string{}
		for _, p := range []struct{ mark, path string }{{"a", "./agent/cmd/azguest"}, {"c", "./agent/cmd/agentctl"}} {
			lines := goList(t, arch, "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", p.path)
			slices.Sort(lines)
			for _, line := range slices.Compact(lines) {
				mod, version, ok := strings.Cut(line, " ")
				if !ok {
					continue // of the standard library, or of this module
				}
				have[mod] += p.mark
				if pseudo.MatchString(version) {
					t.Errorf("%s %s is no release: say why in DESIGN.md, and here", mod, version)
				}
			}
		}
		for mod, in := range have {
			if want[mod] != in {
				t.Errorf("%s: %s is in %q, the list says %q", arch, mod, in, want[mod])
			}
		}
		for mod := range want {
			if have[mod] == "" {
				t.Errorf("%s: %s is in the list and in no program", arch, mod)
			}
		}
	}
}

// numbers parses v1.2.3 and go1.2.3.
func numbers(version string) []int {
	var out []int
	version, _, _ = strings.Cut(strings.TrimLeft(version, "vgo"), "-")
	for n := range strings.SplitSeq(version, ".") {
		i, err := strconv.Atoi(n)
		if err != nil {
			break
		}
		out = append(out, i)
	}
	return out
}

// TestSEC13KnownBadVersions checks the modules of the build, including those of
// tests, against the advisories in testdata. It needs no network.
func TestSEC13KnownBadVersions(t *testing.T) {
	t.Parallel()
	if _, err := os.ReadFile(filepath.Join(root(t), "go.mod")); err != nil { // for the test cache
		t.Fatal(err)
	}
	have := map[string]string{"std": runtime.Version()}
	for _, line := range goList(t, runtime.GOARCH, "-m", "-f", "{{.Path}} {{.Version}}", "all") {
		if mod, version, ok := strings.Cut(line, " "); ok && version != "" {
			have[mod] = version
		}
	}
	for _, f := range table(t, "advisories.txt", 3) {
		version, ok := have[f[0]]
		switch {
		case !ok:
			t.Errorf("%s is not built with any more", f[0])
		case slices.Compare(numbers(version), numbers(f[1])) < 0:
			t.Errorf("%s %s is bad before %s: %s", f[0], version, f[1], strings.Join(f[2:], " "))
		}
	}
}

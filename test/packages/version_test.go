package packages

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// checkout makes a git repository with n commits that has what the version is
// read from.
func checkout(t *testing.T, n int) string {
	t.Helper()
	top := filepath.Join(t.TempDir(), "tree")
	_, err := output(t.Context(), "", nil, "sh", "-euc", `
mkdir -p "$1/scripts" "$1/agent/version"
cp ../../scripts/lib.sh "$1/scripts"
cp ../../agent/version/version.go "$1/agent/version"
cd "$1"
git init -q .
git config user.name x
git config user.email x@example.com
git add .
i=0
while [ $i -lt $2 ]; do i=$((i + 1)); git commit -q --allow-empty -m $i; done`, "checkout", top, strconv.Itoa(n))
	must(t, err)
	return top
}

// TestTOOL4Version: a version is right, or the build says that it does not know
// it. A release is never built from what is not known.
func TestTOOL4Version(t *testing.T) {
	t.Parallel()
	programs(t, "git")
	for _, c := range []struct {
		name    string
		prepare string // $1 is a checkout with 5 commits, $2 an empty folder; prints the tree to build
		env     []string
		want    string // the version, or the start of the reason why it is unknown, or of the message of the refusal
	}{
		{name: "commits", prepare: `echo "$1"`, want: "3.0.0.5"},
		{name: "tag", prepare: `git -C "$1" tag v3.1.0.0; echo "$1"`, want: "3.1.0.0"},
		{name: "tag of an earlier commit", prepare: `git -C "$1" tag v3.1.0.0 HEAD~1; echo "$1"`, want: "3.0.0.5"},
		{name: "two tags", prepare: `cd "$1"; git tag v3.0.0.10; git tag -a -m x v3.0.0.9; echo "$1"`, want: "3.0.0.10"},
		{name: "tag with three numbers", prepare: `git -C "$1" tag v3.1.0; echo "$1"`, want: "lib.sh: version 3.1.0 (from"},
		{name: "tag of a candidate", prepare: `git -C "$1" tag v3.1.0-rc1; echo "$1"`, want: "lib.sh: version 3.1.0-rc1 (from"},
		{name: "other tags", prepare: `git -C "$1" tag nightly; echo "$1"`, want: "3.0.0.5"},
		{name: "shallow", prepare: `git clone -q --depth 1 "file://$1" "$2/s"; echo "$2/s"`, want: "unknown: this checkout is shallow"},
		{name: "shallow, at a tag", prepare: `git -C "$1" tag v3.1.0.0; git clone -q --depth 1 "file://$1" "$2/s"; echo "$2/s"`, want: "3.1.0.0"},
		{name: "worktree", prepare: `git -C "$1" worktree add -q "$2/w"; echo "$2/w"`, want: "3.0.0.5"},
		{name: "without .git, in another repository", prepare: `mkdir "$1/vendored"; cp -r "$1/scripts" "$1/agent" "$1/vendored"; echo "$1/vendored"`, want: "unknown: this tree is not a git checkout"},
		{name: "archive", prepare: `git -C "$1" archive HEAD | tar -xC "$2"; echo "$2"`, want: "unknown: this tree is not a git checkout"},
		{name: "archive with a version", prepare: `git -C "$1" archive HEAD | tar -xC "$2"; echo "$2"`, env: []string{"AZGUEST_VERSION=3.0.0.77"}, want: "3.0.0.77"},
		{name: "misspelt version", prepare: `echo "$1"`, env: []string{"AZGUEST_VERSION=v3.1"}, want: "lib.sh: version v3.1 (from"},
		{name: "in a hook of another repository", prepare: `echo "$1"`, env: []string{"GIT_DIR=/nowhere/.git", "GIT_WORK_TREE=/nowhere"}, want: "3.0.0.5"},
		{name: "owned by another user", prepare: `[ "$(id -u)" != 0 ] || chown -R 12345 "$1"; echo "$1"`, want: "3.0.0.5"},
		{name: "broken repository", prepare: `echo broken >"$1/.git/HEAD"; echo "$1"`, want: "unknown: git cannot read this checkout: fatal:"},
		{name: "no git program", prepare: `echo "$1"`, env: []string{"PATH=" + pathWithoutGit(t)}, want: "unknown: git is not installed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tree, err := output(t.Context(), "", []string{"HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1"}, "sh", "-euc", c.prepare, "prepare", checkout(t, 5), t.TempDir())
			must(t, err)
			tree = strings.TrimSpace(tree)
			const ask = `set -eu; . "$0"; find_version; echo "${version:-unknown: $why}"; release_version >/dev/null`
			// The machine's settings for git are not those of a builder.
			env := append([]string{"HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1"}, c.env...)
			sh, err := exec.LookPath("sh")
			must(t, err)
			got, err := output(t.Context(), "/", env, sh, "-c", ask, filepath.Join(tree, "scripts/lib.sh"))
			if err != nil && !strings.HasPrefix(got, "unknown: ") {
				got = strings.TrimPrefix(err.Error(), sh+": exit status 1: ")
			}
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("got %q, want %q (%v)", got, c.want, err)
			}
			if known := strings.HasPrefix(c.want, "3."); known != (err == nil) {
				t.Errorf("a release of this tree: %v", err)
			}
		})
	}
}

// pathWithoutGit returns a folder with the programs of lib.sh, except git.
func pathWithoutGit(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"sed", "dirname", "env", "grep", "sort", "tail", "head"} {
		to, err := exec.LookPath(name)
		must(t, err)
		must(t, os.Symlink(to, filepath.Join(dir, name)))
	}
	return dir
}

// TestTOOL4UnstampedBuild: what `go build` and `go install` make is above every
// release in number, and says that it is none.
func TestTOOL4UnstampedBuild(t *testing.T) {
	t.Parallel()
	programs(t, "go")
	dir := t.TempDir()
	_, err := output(t.Context(), "", []string{"CGO_ENABLED=0"}, "go", "build", "-buildvcs=false", "-o", dir+"/", "../../agent/cmd/agentctl")
	must(t, err)
	out, err := output(t.Context(), "", nil, filepath.Join(dir, "agentctl"), "--version")
	must(t, err)
	if !strings.HasPrefix(out, "agentctl 3.0.0.99999 (development build, commit unknown, go") {
		t.Errorf("agentctl --version: %s", out)
	}
	stamp := "github.com/azguest/azguest/agent/version"
	_, err = output(t.Context(), "", []string{"CGO_ENABLED=0"}, "go", "build", "-buildvcs=false", "-ldflags", "-X "+stamp+".number=3.1.2.4 -X "+stamp+".commit=79d7f65a1b2c-modified", "-o", dir+"/", "../../agent/cmd/agentctl")
	must(t, err)
	out, err = output(t.Context(), "", nil, filepath.Join(dir, "agentctl"), "--version")
	must(t, err)
	if !strings.HasPrefix(out, "agentctl 3.1.2.4 (commit 79d7f65a1b2c-modified, go") {
		t.Errorf("agentctl --version: %s", out)
	}
}

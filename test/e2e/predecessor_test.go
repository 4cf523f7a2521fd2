package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // key identifiers are SHA-1
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/update/updatetest"
	"github.com/azguest/azguest/agent/version"
	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/sandbox"
)

// predecessor contains the files that the agent of commit aac09a6 had on disk
// when it was killed while a handler was running. It was the last version
// before the packages of this repository were reorganized. A file's mode is
// before its name; a directory's name ends in a slash. Private keys and handler
// packages are left out; the test creates them. @VERSION@ stands for the version of
// the agent, @BOOT@, @STARTED@, @DEADLINE@ and @UPTIME@ for the boot id and the
// times of the handler.
//
// To record it again, with the binaries of that commit in DIR:
//
//	AZGUEST_BIN=DIR AZGUEST_RECORD=1 go test -run TestRecordPredecessor ./test/e2e
const predecessor = "testdata/predecessor.txt"

var (
	steadyExtension = extension{name: "steady", publisher: "Azguest.E2E", kind: "Steady", version: "1.0", settings: map[string]any{"a": 1}}
	slowExtension   = extension{name: "slow", publisher: "Azguest.E2E", kind: "Slow", version: "1.0", settings: map[string]any{"patience": "long"}}
)

// refusedVersion is an unsigned version of the agent.
const refusedVersion = "9.0.2.0"

// person is a just-in-time user that does not expire during the test.
func person(name string) fabric.User {
	return fabric.User{Name: name, Password: "Pass w0rd 1", Expires: time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// newSuccession is the machine of the predecessor, without its files.
func newSuccession(t *testing.T) *cloud {
	t.Helper()
	c := updatable(t, updatetest.NewAuthority(), "", nil)
	if err := c.Fabric.AddPackage("Azguest.E2E.Steady", "1.0.0", handler(t, steady)); err != nil {
		t.Fatal(err)
	}
	c.publish(t, nil, refusedVersion, updatetest.Python(refusedVersion))
	return c
}

// TestRecordPredecessor records the file again.
func TestRecordPredecessor(t *testing.T) {
	if os.Getenv("AZGUEST_RECORD") == "" {
		t.Skip("AZGUEST_RECORD is not set")
	}
	c := newSuccession(t)
	users := func(all ...fabric.User) { c.VM.Configure(func(cfg *fabric.Config) { cfg.Users = all }) }
	c.StartAgent(t)
	c.provisioned(t)
	await(t, "the refusal of an update", func() bool { return strings.Contains(c.shown().Agent.Update.LastResult, "AZ-UPD-UNSIGNED") })
	users(person("jit1"))
	await(t, "jit1", func() bool { return c.Sh(t, "id -u jit1 2>/dev/null || :") == "1002" })
	users(person("jit1"), person("jit0"))
	await(t, "jit0", func() bool { return c.Sh(t, "id -u jit0 2>/dev/null || :") == "1003" })
	users(person("jit1"))
	await(t, "the end of jit0", func() bool { return c.Sh(t, "id -u jit0 2>/dev/null || :") == "" })
	if got := c.follow(t, c.put(t, steadyExtension)); got != "" {
		t.Fatal(got)
	}
	c.put(t, slowExtension)
	await(t, "enable to run", func() bool { return c.Sh(t, "grep -c enable /var/tmp/handler/calls || :") == "2" })
	await(t, "it to be in the status", func() bool { return c.Rows(t)["Azguest.E2E.Slow"].Status == "transitioning" })
	if err := c.KillAgent(); err != nil {
		t.Fatal(err)
	}
	boot := c.Sh(t, "cat /proc/sys/kernel/random/boot_id")
	running := regexp.MustCompile(`(?s)("started": ")[^"]*(",\s*"deadline": ")[^"]*(",.*?"at": )\d+`)
	var out strings.Builder
	for line := range strings.Lines(c.Sh(t, `cd / && find var/lib/waagent run/azguest/lives run/azguest/ready-accepted var/log/azure/azguest-audit.log \
	-type d -printf '0%m %p/\n' -o -type f ! -path '*/reserve/*' ! -path '*/packages/*' ! -path '*__[2-9]/*' ! -name '*.spare' ! -name Certificates.pem ! -name TransportPrivate.pem ! -name '*.prv' ! -name '*.crt' \
	! -name CustomData ! -name ovf-env.xml ! -name VmSettings.json ! -name ExtensionsConfig.xml -printf '0%m %p\n' | sort -k 2`)) {
		line = strings.TrimSpace(line)
		fmt.Fprintf(&out, "-- %s --\n", line)
		if _, name, _ := strings.Cut(line, " "); !strings.HasSuffix(name, "/") {
			text := strings.NewReplacer(boot, "@BOOT@", `"3.0.0.0"`, `"@VERSION@"`).Replace(c.Read(t, "/"+name))
			if strings.Contains(name, "records/Azguest.E2E.Slow") {
				text = running.ReplaceAllString(text, "${1}@STARTED@${2}@DEADLINE@${3}@UPTIME@")
			}
			fmt.Fprintln(&out, strings.TrimRight(text, " \n\x00"))
		}
	}
	fmt.Fprintf(&out, "-- 0600 %s --\n%s\n", toldFile, rowsText(c.Rows(t)))
	if err := os.WriteFile(predecessor, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// toldFile is the name under which the last status document is recorded among
// the files.
const toldFile = "told"

func rowsText(rows map[string]machine.Row) string { return fmt.Sprintf("%+v", rows) }

// layOut writes the predecessor's files to a machine. It returns the directory
// of the running job, and the last status document.
func (c *cloud) layOut(t *testing.T) (job, told string) {
	t.Helper()
	recorded, err := os.ReadFile(predecessor)
	if err != nil {
		t.Fatal(err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	// With another version, the contract wants each handler enabled once more.
	fill := strings.NewReplacer("@VERSION@", version.Number(), "@BOOT@", c.Sh(t, "cat /proc/sys/kernel/random/boot_id"), "@UPTIME@", strconv.FormatInt(now.Nano(), 10),
		"@STARTED@", time.Now().UTC().Format(time.RFC3339Nano), "@DEADLINE@", time.Now().Add(5*time.Minute).UTC().Format(time.RFC3339Nano))
	ended := map[string]bool{}
	for part := range strings.SplitSeq("\n"+string(recorded), "\n-- ") {
		head, text, found := strings.Cut(part, " --\n")
		if !found {
			continue
		}
		octal, name, _ := strings.Cut(head, " ")
		if name == toldFile {
			told = strings.TrimSpace(text)
			continue
		}
		mode, err := strconv.ParseUint(octal, 8, 12)
		if err != nil {
			t.Fatal(err)
		}
		name = "/" + name
		if strings.HasSuffix(name, "/") {
			c.Sh(t, "mkdir -p '"+name+"' && chmod "+octal+" '"+name+"'")
			continue
		}
		c.Sh(t, "mkdir -p '"+path.Dir(name)+"'")
		if path.Base(name) == "TransportCert.pem" {
			var key string
			text, key = transport(t, text)
			c.Write(t, machine.Lib+"/TransportPrivate.pem", key, 0o400)
		}
		c.Write(t, name, fill.Replace(strings.TrimSuffix(text, "\n")), fs.FileMode(mode))
		if dir, file := path.Split(name); path.Base(path.Dir(path.Dir(name))) == "jobs" {
			ended[dir] = ended[dir] || file == "result.json"
		}
	}
	for dir, is := range ended {
		if !is {
			job = strings.TrimSuffix(dir, "/")
		}
	}
	zip := handler(t, slow)
	packages := machine.Lib + "/azguest/ext/packages"
	c.Sh(t, "mkdir -p "+packages)
	c.Write(t, packages+"/Azguest.E2E.Slow-1.0.0.zip", string(zip), 0o600)
	c.Write(t, packages+"/Azguest.E2E.Slow-1.0.0.sha256", fmt.Sprintf("%x\n", sha256.Sum256(zip)), 0o600)
	// The owner of jit1 has changed its comment (chfn), so that only jit.json
	// makes it a just-in-time user (DESIGN.md decision 74).
	c.Sh(t, "useradd -m -u 1001 -s /bin/bash azureuser && useradd -m -u 1002 -s /bin/bash -c 'Jo Smith' jit1 && echo 'azureuser:Chosen by hand 1' | chpasswd && hostname first-light && echo first-light >/etc/hostname")
	return job, told
}

// transport returns a certificate like the recorded one with another key and
// current times.
func transport(t *testing.T, recorded string) (certificate, key string) {
	t.Helper()
	block, _ := pem.Decode([]byte(recorded))
	if block == nil {
		t.Fatalf("no certificate: %s", recorded)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	id := sha1.Sum(x509.MarshalPKCS1PublicKey(&k.PublicKey)) //nolint:gosec // the key identifier that OpenSSL computes
	c.PublicKey, c.NotBefore, c.NotAfter, c.SubjectKeyId = &k.PublicKey, time.Now().Add(-time.Hour), time.Now().AddDate(2, 0, 0), id[:]
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return text("CERTIFICATE", der), text("PRIVATE KEY", private)
}

// TestUpgradeWhileHandlerRuns: the predecessor is replaced by the agent of this
// tree while a handler runs under the predecessor's supervisor. Nothing is run
// twice, and no state is lost.
func TestUpgradeWhileHandlerRuns(t *testing.T) {
	t.Parallel()
	c := newSuccession(t)
	c.put(t, steadyExtension)
	op := c.put(t, slowExtension)
	job, told := c.layOut(t)

	// The supervisor inherited the lock from the agent that started it, and its
	// binary has been deleted.
	_, err := c.Start(sandbox.Cmd{Args: []string{"sh", "-c", `cp /usr/sbin/azguest /usr/sbin/azguest.old
exec 3<>"$1/lock"; flock -n 3; exec /usr/sbin/azguest.old supervise "$1" >>"$1/supervisor.log" 2>&1`, "start", job}, Env: []string{"AZGUEST_OPERATION=" + path.Base(job)}})
	if err != nil {
		t.Fatal(err)
	}
	const calls = "cat /var/tmp/handler/calls 2>/dev/null || :"
	await(t, "enable to run", func() bool { return strings.HasPrefix(c.Sh(t, calls), "enable 0") })
	const unchanged = `grep -v ^jit1 /etc/shadow | sha256sum; sha256sum /etc/ssh/ssh_host_*_key /var/lib/waagent/Transport*.pem /var/lib/waagent/provisioned /var/lib/waagent/azguest/provision.json | sort; hostname`
	c.Sh(t, "rm /usr/sbin/azguest.old")
	once, before := c.Sh(t, calls), c.Sh(t, unchanged)

	c.StartAgent(t)
	var rows string
	defer func() {
		if rows != told {
			t.Errorf("the platform was told\n%s\nand is told\n%s", told, rows)
		}
	}()
	await(t, "the same rows", func() bool { rows = rowsText(c.Rows(t)); return rows == told })
	c.WaitStatus(t)
	if got := c.Sh(t, calls); got != once {
		t.Errorf("handlers were called again: %q, before the upgrade %q", got, once)
	}
	c.Sh(t, "touch /var/tmp/handler/go")
	if got := c.follow(t, op); got != "" {
		t.Errorf("the extension that was running: %s", got)
	}
	if row := c.Rows(t)["Azguest.E2E.Slow"]; row.HandlerStatus != "Ready" || row.Message() != "waited in process "+once[strings.LastIndex(once, " ")+1:] {
		t.Errorf("row of the handler that was running: %+v, want the words of process %s", row, once)
	}
	if got := c.Sh(t, calls); got != once {
		t.Errorf("handlers were called again: %q, before the upgrade %q", got, once)
	}
	if after := c.Sh(t, unchanged); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
	// Its state of updates is kept: the refused version is not tried again.
	await(t, "the state of updates", func() bool { return strings.Contains(c.shown().Agent.Update.LastResult, "AZ-UPD-UNSIGNED") })
	if n := len(c.Fabric.Journal(fabric.Query{Contains: refusedVersion + ".zip.sig"})); n != 0 {
		t.Errorf("version %s of the agent, which was refused, was looked at %d times", refusedVersion, n)
	}
	// Its history is continued, and so is the numbering of its audit log.
	if got := c.Sh(t, `agentctl ext history | grep -c Azguest.E2E.Slow; grep -o '"n":[0-9]*' /var/log/azure/azguest-audit.log | sort -u | wc -l; wc -l </var/log/azure/azguest-audit.log`); strings.HasPrefix(got, "0") || strings.Split(got, "\n")[1] != strings.Split(got, "\n")[2] {
		t.Errorf("history: %q, want lines of the handler and audit lines with a number each", got)
	}
	if got := c.Sh(t, "ls -d /var/lib/waagent/history/*__1 | head -n 1"); got == "" {
		t.Error("the goal states that the predecessor kept are gone")
	}
	// The platform no longer lists the predecessor's just-in-time user, which
	// the agent must remove although its comment was changed; its user id is not
	// used again.
	await(t, "the end of jit1", func() bool { return c.Sh(t, "id -u jit1 2>/dev/null || :") == "" })
	c.VM.Configure(func(cfg *fabric.Config) { cfg.Users = []fabric.User{person("jit2")} })
	await(t, "jit2", func() bool { return c.Sh(t, "id -u jit2 2>/dev/null || :") != "" })
	if got := c.Sh(t, "id -u jit2"); got != "1004" {
		t.Errorf("jit2 has the number %s, want 1004: an account that was removed had 1003", got)
	}
}

package access

import (
	"crypto/ed25519"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/agent/host/hosttest"
)

// newKey returns a public key as a line.
func newKey(t *testing.T) string {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

// TestS11RevokedKeys: what makes a key useless is found also where no sshd
// listens that could be asked. The matrix compares the same with a real sshd.
func TestS11RevokedKeys(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	const krl = "SSHKRL\n\x00..."
	for _, tc := range []struct {
		name   string
		list   string // of RevokedKeys; empty: the file is missing
		keygen hosttest.Answer
		sshd   string
		line   string // of authorized_keys
		code   string // of the finding that shuts the key; empty: none
	}{
		{name: "no list", list: "none"},
		{name: "missing", code: CodeRevoked},
		{name: "empty", list: "# nobody\n\n"},
		{name: "another key", list: other + " bob\n"},
		{name: "the key", list: other + "\n" + key + " someone\n", code: CodeRevoked},
		{name: "garbage", list: "none\n", code: CodeRevoked},
		{name: "garbage after another key", list: other + "\nnone\n", code: CodeRevoked},
		{name: "KRL", list: krl},
		{name: "KRL with the key", list: krl, keygen: hosttest.Answer{Code: 1}, code: CodeRevoked},
		{name: "KRL that is damaged", list: krl, keygen: hosttest.Answer{Code: 255}, code: CodeRevoked},
		{name: "algorithms", list: "none", sshd: "pubkeyacceptedalgorithms rsa-sha2-512\n", code: CodeKeyType},
		{name: "expired", list: "none", line: `expiry-time="20200101" `, code: CodeKeyFile},
		{name: "expires later", list: "none", line: `expiry-time="29990101" `},
		{name: "for others", list: "none", line: `from="10.0.0.0/8" `, code: CodeKeyFile},
		{name: "for all", list: "none", line: `from="*" `},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"/etc/passwd": passwd, "/etc/ssh/sshd_config": "Port 22\n", "/usr/sbin/sshd": "", "/bin/bash": "", "/home/u/.ssh/authorized_keys": tc.line + key + "\n"}
			say := "port 22\npubkeyauthentication yes\nusepam no\nstrictmodes no\nauthorizedkeysfile .ssh/authorized_keys\n" + tc.sshd
			if tc.list != "none" {
				say += "revokedkeys /etc/ssh/revoked\n"
				if tc.list != "" {
					files["/etc/ssh/revoked"] = tc.list
				}
			}
			m := fake(t, files, map[string]hosttest.Answer{
				"/usr/sbin/sshd": {Stdout: say}, "ssh-keygen": tc.keygen,
				"cat": {Stdout: files["/home/u/.ssh/authorized_keys"]},
			})
			for _, given := range [][]string{{key}, nil} { // after provisioning, and for doctor
				r := Check(t.Context(), m, Person{Name: "u", Key: true, Keys: given}, false)
				var codes []string
				for _, f := range r.Findings {
					if slices.Contains(f.Shuts, Key) {
						codes = append(codes, f.Code)
					}
				}
				if got := strings.Join(slices.Compact(codes), " "); got != tc.code {
					t.Errorf("keys given %v: findings %q, want %q: %+v", given != nil, got, tc.code, r.Findings)
				}
			}
			if m.Root.Exists(m.Options.Dir() + "/asked.pub") {
				t.Error("the key that was asked about is left behind")
			}
		})
	}
}

// TestP2NologinOfTheBoot: /run/nologin is waited for while systemd is going to
// remove it, and is a note afterwards; where nothing will remove it, it shuts
// the machine at once, like /etc/nologin.
func TestP2NologinOfTheBoot(t *testing.T) {
	t.Parallel()
	const pam = "account required pam_nologin.so\naccount required pam_permit.so\nauth required pam_permit.so\n"
	for _, tc := range []struct {
		name, show string
		goes       time.Duration // when systemd removes the file; 0: never
		etc        bool
		noPAM      bool
		shuts      bool
		found      bool
		waits      time.Duration
	}{
		{name: "the boot goes on", show: "ActiveState=activating\nJob=71\n", goes: 10 * time.Second, waits: 10 * time.Second},
		{name: "a mount keeps the boot waiting", show: "ActiveState=inactive\nJob=71\n", found: true, waits: bootPatience},
		{name: "a shutdown is planned", show: "ActiveState=active\nJob=0\n", found: true, shuts: true},
		{name: "the unit has failed", show: "ActiveState=failed\nJob=\n", found: true, shuts: true},
		{name: "without PAM, nobody reads it", show: "ActiveState=active\nJob=0\n", noPAM: true},
		{name: "/etc/nologin", show: "ActiveState=inactive\nJob=71\n", goes: time.Second, etc: true, found: true, shuts: true, waits: time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			files := map[string]string{"/etc/passwd": passwd, "/etc/ssh/sshd_config": "Port 22\n", "/usr/sbin/sshd": "", "/bin/bash": "", "/run/nologin": "System is booting up.\n", "/etc/pam.d/sshd": pam}
			if tc.etc {
				files["/etc/nologin"] = "maintenance\n"
			}
			use := "usepam yes\n"
			if tc.noPAM {
				use = "usepam no\n"
			}
			m := fake(t, files, map[string]hosttest.Answer{
				"/usr/sbin/sshd": {Stdout: "port 22\npasswordauthentication yes\n" + use},
				"systemctl list-jobs --no-legend --no-pager": {Stdout: " 71 systemd-user-sessions.service start waiting\n 90 mnt-share.mount start running\n"},
				"systemctl":       {Stdout: tc.show},
				"getent shadow u": {Stdout: "u:$6$x$y:20000:0:99999:7:::\n"},
				"getent":          {Stdout: "u:x:1000:1000::/home/u:/bin/bash\n"},
			})
			if tc.goes > 0 {
				time.AfterFunc(tc.goes, func() {
					if err := m.Root.Remove("/run/nologin"); err != nil {
						t.Error(err)
					}
				})
			}
			start := time.Now()
			r := Check(t.Context(), m, Person{Name: "u", Password: true}, true)
			if took := time.Since(start); took < tc.waits || took > tc.waits+time.Second {
				t.Errorf("%s: took %v, want %v", tc.name, took, tc.waits)
			}
			i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Code == CodeNologin })
			if (i >= 0) != tc.found || r.NoWayIn() != tc.shuts {
				t.Errorf("%s: no way in: %v, findings %+v", tc.name, r.NoWayIn(), r.Findings)
			}
			if i >= 0 && !tc.shuts && !strings.Contains(r.Findings[i].Evidence, "mnt-share.mount") {
				t.Errorf("%s: %s does not say what is waited for", tc.name, r.Findings[i].Evidence)
			}
		})
	}
}

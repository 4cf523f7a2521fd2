package provisioning

import (
	"bytes"
	"os"
	"testing"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/test/peak"
)

func FuzzSSHDConfiguration(f *testing.F) {
	f.Add([]byte("Include /etc/ssh/sshd_config.d/*.conf\nMatch User \"a b\"\n\tPasswordAuthentication=no # x\n"))
	f.Add([]byte("Include /etc/ssh/sshd_config\n")) // includes itself
	f.Add([]byte(blockBegin + "\nx\n" + blockEnd + "\n"))
	r := host.Root(f.TempDir())
	if err := os.MkdirAll(r.Path("/etc/ssh"), 0o755); err != nil {
		f.Fatal(err)
	}
	set := []Setting{{"PasswordAuthentication", "no"}}
	f.Fuzz(peak.Target(func(t *testing.T, b []byte) {
		files := map[string][]byte{"/etc/ssh/sshd_config": b}
		conf := readSSHD(r, "/etc/ssh/sshd_config", "/etc/ssh", files)
		_, _ = effective(conf, "passwordauthentication")
		once := withBlock(b, set)
		if twice := withBlock(once, set); !bytes.Equal(once, twice) {
			t.Errorf("a second edit changes %q to %q", once, twice)
		}
		if !bytes.Equal(withoutBlock(once), withoutBlock(b)) {
			t.Errorf("%q is not restored", b)
		}
	}))
}

func FuzzSudoers(f *testing.F) {
	f.Add("bob ALL=(ALL) ALL\n", "bob", true)
	f.Fuzz(func(t *testing.T, text, user string, no bool) {
		if CheckUserName(user) != nil {
			t.Skip()
		}
		once := sudoersWith(text, user, no)
		if twice := sudoersWith(once, user, no); twice != once {
			t.Errorf("a second edit changes %q to %q", once, twice)
		}
	})
}

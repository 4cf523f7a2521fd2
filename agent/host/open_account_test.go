package host_test

import (
	"os"
	"testing"

	"github.com/azguest/azguest/agent/host"
)

// TestIN5OpenAccount: an account that the document gives to a person neither
// expires nor demands a new password first; other fields and accounts stay.
func TestIN5OpenAccount(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, line, want string
		ageless          bool
	}{
		{"open", "u:*:29000:0:99999:7:::", "u:*:29000:0:99999:7:::", true},
		{"expired", "u:$6$x:29000:0:99999:7::1:", "u:$6$x:29000:0:99999:7:::", false},
		{"an age nobody can end", "u:*:29000:1:60:7:30::", "u:*:29000:1::7:::", true},
		{"an age with a password", "u:$6$x:29000:1:60:7:30::", "u:$6$x:29000:1:60:7:30::", false},
	} {
		r := host.Root(t.TempDir())
		if err := os.MkdirAll(r.Path("/etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		const other = "v:!:1:0:1:7:1:1:\n"
		if err := os.WriteFile(r.Path("/etc/shadow"), []byte(other+tc.line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.OpenAccount(t.Context(), "/etc/shadow", "u", tc.ageless); err != nil {
			t.Fatal(err)
		}
		b, err := r.ReadFile("/etc/shadow")
		if err != nil || string(b) != other+tc.want+"\n" {
			t.Errorf("%s: %q, %v", tc.name, b, err)
		}
	}
}

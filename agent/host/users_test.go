package host

import (
	"slices"
	"testing"

	"github.com/azguest/azguest/agent/host/process"
)

// TestSEC3SubordinateNumbers: for which lines of /etc/subuid processes may be
// ended.
func TestSEC3SubordinateNumbers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		subuid string
		want   []process.IDRange
	}{
		"its own":          {"ann:100000:65536\nbob:165536:65536\n", []process.IDRange{{First: 100000, Last: 165535}}},
		"by number":        {"1500:100000:10\n", []process.IDRange{{First: 100000, Last: 100009}}},
		"everything":       {"ann:0:4294967295\n", nil},
		"the system's":     {"ann:1:65536\n", nil},
		"another's too":    {"ann:100000:65536\nbob:120000:10\n", nil},
		"an account in it": {"ann:200000:10\n", nil},
		"nonsense":         {"ann:x:1\nann:100000:-1\nann\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := Root(t.TempDir())
			for file, text := range map[string]string{"passwd": "ann:x:1500:1500::/home/ann:/bin/sh\nldap:x:200005:1::/:/bin/sh\n", "subuid": tc.subuid} {
				if err := r.MkdirAll("/etc", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := r.WriteFile("/etc/"+file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := r.Subordinates(Account{Name: "ann", UID: 1500}); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

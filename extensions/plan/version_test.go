package plan

import (
	"testing"

	"github.com/azguest/azguest/protocol"
)

// TestVersions tests which version is chosen (version_decide), and the order of
// versions.
func TestVersions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		a, b string
		want int
	}{{"1.0", "1.0.0", 0}, {"1.10", "1.9", 1}, {"2.0.0-rc1", "2.0.0", -1}, {"2.0.0-alpha", "2.0.0-beta", -1}, {"x", "0.0", -1}, {"1.0.9120.0", "1.0.9120", 0}} {
		if got := CompareVersions(tc.a, tc.b); (got > 0) != (tc.want > 0) || (got < 0) != (tc.want < 0) {
			t.Errorf("CompareVersions(%s, %s) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
	m := protocol.Manifest{}
	for _, v := range []string{"3.9", "4.0.0.0", "4.0.0.1", "4.1.0.0", "10.0"} {
		m.Versions = append(m.Versions, protocol.PackageVersion{Version: v})
	}
	for ask, want := range map[string]string{"4.0": "4.0.0.1", "4": "4.1.0.0", "4.0.0.0": "4.0.0.0", "3.9": "3.9", "5.0": "", "1": "", "10": "10.0"} {
		if got, _ := ChooseVersion(ask, m); got.Version != want {
			t.Errorf("%s: got %q, want %q", ask, got.Version, want)
		}
	}
}

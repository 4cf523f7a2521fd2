package event

import (
	"path/filepath"
	"testing"

	"github.com/azguest/azguest/agent/host/hosttest"
)

// TestSEC2EventsUnderAttack: the folder of events belongs to a service account
// that replaces it, and what is in it, by links. Nothing that they point to is
// read or removed.
func TestSEC2EventsUnderAttack(t *testing.T) {
	t.Parallel()
	logs := filepath.Join(t.TempDir(), "azure")
	hosttest.Attack(t, filepath.Join(logs, "Contoso.App"), []string{"events/", "events/1700000000.json", "events/1700000001.json"}, func(round int) {
		c, _ := CollectExtensions(logs, round%2 == 0)
		for _, e := range c.Events {
			t.Errorf("read an event from outside the folder: %+v", e)
		}
	})
}

package extensions

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLifecycle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "Pub.A", version: "1.0.0", script: simple}, pkg{name: "Pub.A", version: "1.1.0", script: simple}).start()
	s := w.offer(ext("Pub.A", "1.0.0", 0))
	want := "Pub.A 1.0.0 Ready 0 | 0 success 0\n"
	if got := show(s); got != want {
		t.Errorf("after enable: got %s want %s", got, want)
	}
	if diff := cmp.Diff([]string{"1.0.0 install 0", "1.0.0 enable 0"}, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	w.clearCalls()
	w.offer(ext("Pub.A", "1.0.0", 1))
	if diff := cmp.Diff([]string{"1.0.0 enable 1"}, w.calls()); diff != "" {
		t.Errorf("new settings (-want +got):\n%s", diff)
	}
	w.clearCalls()
	s = w.offer(ext("Pub.A", "1.1.0", 2))
	if got, want := show(s), "Pub.A 1.1.0 Ready 0 | 2 success 0\n"; got != want {
		t.Errorf("after update: got %s want %s", got, want)
	}
	if diff := cmp.Diff([]string{"1.0.0 disable 2", "1.1.0 update 2", "1.0.0 uninstall 2", "1.1.0 install 2", "1.1.0 enable 2"}, w.calls()); diff != "" {
		t.Errorf("update (-want +got):\n%s", diff)
	}
	w.clearCalls()
	w.restart()
	w.offer(ext("Pub.A", "1.1.0", 2))
	if got := w.calls(); got != nil {
		t.Errorf("a restart ran %q", got)
	}
	s = w.offer(gone(ext("Pub.A", "1.1.0", 2)))
	if got := show(s); got != "" {
		t.Errorf("after uninstall: %s", got)
	}
	if diff := cmp.Diff([]string{"1.1.0 disable 2", "1.1.0 uninstall 2"}, w.calls()); diff != "" {
		t.Errorf("uninstall (-want +got):\n%s", diff)
	}
	if exists(w.base("Pub.A-1.1.0")) || exists(w.base("Pub.A-1.0.0")) {
		t.Error("directories are left")
	}
}

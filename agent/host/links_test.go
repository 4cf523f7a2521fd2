package host

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/test/peak"
)

func linkMessage(kind uint16, index int, name string, oper byte) []byte {
	msg := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint16(msg[4:], kind)
	binary.NativeEndian.PutUint32(msg[unix.SizeofNlMsghdr+4:], uint32(index))
	attr := func(typ uint16, v []byte) {
		a := make([]byte, 4, 4+len(v)+3)
		binary.NativeEndian.PutUint16(a, uint16(4+len(v)))
		binary.NativeEndian.PutUint16(a[2:], typ)
		a = append(a, v...)
		for len(a)%4 != 0 {
			a = append(a, 0)
		}
		msg = append(msg, a...)
	}
	attr(unix.IFLA_IFNAME, append([]byte(name), 0))
	attr(unix.IFLA_OPERSTATE, []byte{oper})
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))
	return msg
}

func TestParseLinks(t *testing.T) {
	t.Parallel()
	b := append(linkMessage(unix.RTM_NEWLINK, 2, "eth0", 6), linkMessage(unix.RTM_DELLINK, 3, "eth1", 2)...)
	want := []LinkEvent{{Name: "eth0", Index: 2, Up: true}, {Name: "eth1", Index: 3, Gone: true}}
	if diff := cmp.Diff(want, parseLinks(b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestOpenRoutes: subscribing works, and Next ends with its context.
func TestOpenRoutes(t *testing.T) {
	t.Parallel()
	l, err := OpenRoutes()
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	for err == nil { // the machine's own addresses may change meanwhile
		_, err = l.Next(ctx)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func FuzzParseLinks(f *testing.F) {
	f.Add(linkMessage(unix.RTM_NEWLINK, 2, "eth0", 6))
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) { parseLinks(b) }))
}

func TestEditShadowKeepsEveryOtherByte(t *testing.T) {
	t.Parallel()
	r := Root(t.TempDir())
	if err := r.MkdirAll("/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	const old = "root:$6$a$b:19000:0:99999:7:::\n# odd line\nbob:!:1:2:3:4:5:6:\nbobby:*:1::::::"
	if err := r.WriteFile("/etc/shadow", []byte(old), 0o640); err != nil {
		t.Fatal(err)
	}
	set := func(name, field string, stamp bool) {
		t.Helper()
		if err := r.EditPasswordField(t.Context(), "/etc/shadow", name, stamp, func(string, bool) string { return field }); err != nil {
			t.Fatal(err)
		}
	}
	set("bob", "*", false)
	set("bobby", "*", false) // nothing changes
	b, err := r.ReadFile("/etc/shadow")
	if want := "root:$6$a$b:19000:0:99999:7:::\n# odd line\nbob:*:1:2:3:4:5:6:\nbobby:*:1::::::"; err != nil || string(b) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, b, want)
	}
	if f, ok, err := r.PasswordField("/etc/shadow", "bobby"); f != "*" || !ok || err != nil {
		t.Errorf("bobby: %q %v %v", f, ok, err)
	}
}

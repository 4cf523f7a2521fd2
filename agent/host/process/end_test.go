package process

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestSEC3WhatBelongsToAUser: which processes are ended with a user, and which
// look alike but belong to others.
func TestSEC3WhatBelongsToAUser(t *testing.T) {
	t.Parallel()
	const host, box, users = "pid:[1]", "pid:[2]", "user:[1]"
	ids := func(n ...int) (out [4]int) {
		for i := range out {
			out[i] = n[min(i, len(n)-1)]
		}
		return out
	}
	proc := func(pid, parent int, uids [4]int) member {
		return member{Info{PID: pid, Parent: parent, Session: pid, Ticks: 5, UIDs: uids, Login: -1, Slice: -1}, namespaces{pid: host, user: users}}
	}
	with := func(m member, f func(*member)) member { f(&m); return m }
	self := proc(50, 1, ids(0))
	all := []member{
		proc(1, 0, ids(0)), proc(2, 1, ids(0)), self,
		proc(100, 1, ids(1500)),                           // the shell
		proc(101, 100, ids(0)),                            // sudo in it
		proc(102, 101, ids(0)),                            // and the shell of that
		proc(110, 1, ids(1500, 0)),                        // a set-user-ID program
		proc(111, 1, ids(0, 0, 1500, 0)),                  // dropped for good, but for its saved user
		proc(112, 1, ids(0, 1500, 0, 1500)),               // root's server at work for the user
		proc(113, 1, ids(1501)), proc(114, 1, ids(15000)), // others
		with(proc(120, 1, ids(0)), func(m *member) { m.Slice = 1500 }),                                     // a root shell left in a session
		with(proc(121, 1, ids(0)), func(m *member) { m.Slice = 1501 }),                                     // another's
		with(proc(130, 1, ids(100000)), func(m *member) { m.user, m.owners = "user:[2]", []int{1500} }),    // root in the user's namespace
		with(proc(131, 1, ids(100005)), func(m *member) { m.user, m.owners = "user:[3]", []int{0} }),       // a container of root's that uses the same numbers
		with(proc(132, 1, ids(7)), func(m *member) { m.user, m.owners = "user:[4]", []int{100000, 1500} }), // a namespace in the user's
		proc(133, 1, ids(100007)), // a set-user-ID file of the namespace, outside of it
		proc(140, 2, ids(0)),      // starts and supervises a container
		with(proc(141, 140, ids(0)), func(m *member) { m.pid = box }),
		with(proc(142, 141, ids(1500)), func(m *member) { m.pid = box }),       // another user of that number
		with(proc(150, 100, ids(1500)), func(m *member) { m.pid = "pid:[3]" }), // a sandbox of the user's
		with(proc(151, 150, ids(1500)), func(m *member) { m.pid = "pid:[3]" }),
		with(proc(152, 1, ids(1500)), func(m *member) { m.pid = "pid:[4]" }), // one whose supervisor has gone
	}
	table := table{all: map[int]member{}, self: self.Info, ns: namespaces{pid: host, user: users}}
	for _, m := range all {
		table.all[m.PID] = m
	}
	u := Revoked{UID: 1500, Subordinate: []IDRange{{100000, 165535}}}
	pids := func(ps []Info) (out []int) {
		for _, p := range ps {
			out = append(out, p.PID)
		}
		return out
	}
	want := []int{100, 101, 102, 110, 111, 120, 130, 132, 133, 150, 151, 152}
	if got := pids(table.victims(u, nil)); !slices.Equal(got, want) {
		t.Errorf("ended:\n%v, want\n%v", got, want)
	}
	if !table.shared(u) {
		t.Error("a container's processes with the same uid are not noticed")
	}
	if got := pids(table.victims(u, table.borrowed(u))); !slices.Contains(got, 112) || slices.Contains(got, 142) {
		t.Errorf("in the second look: %v", got)
	}
	// The caller is a command of the user's own shell.
	table.self = table.all[102].Info
	u.SpareCaller = true
	want = slices.DeleteFunc(want, func(pid int) bool { return pid >= 100 && pid <= 102 })
	if got := pids(table.victims(u, nil)); !slices.Equal(got, want) {
		t.Errorf("ended by a caller in the session:\n%v, want\n%v", got, want)
	}
	for _, uid := range []int{0, -1, os.Geteuid()} {
		if err := EndUser(context.Background(), Revoked{UID: uid}); err == nil || !strings.Contains(err.Error(), "system account") {
			t.Errorf("uid %d: %v", uid, err)
		}
	}
}

func TestSEC3SharedMemoryOfAUser(t *testing.T) {
	t.Parallel()
	const shm = `       key      shmid perms       size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime
      4711          3   600       4096   100   100      0  1500  1500  1500  1500          0          0          1
         0          4   600       4096   100   100      0     0     0  1500  1500          0          0          1
         0       1500   600       4096   100   100      0     0     0     0     0          0          0          1
`
	if got := ipcOf(shm, 1500); !slices.Equal(got, []int{3, 4}) {
		t.Errorf("got %v", got)
	}
}

package provisioning_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

const (
	vmID   = "e05e4d0c-1de2-4a2a-a2e1-0b6c0b1b7a2f"
	edKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl user@host"
	passwd = " p:w'\"<&\\ é$1 "
)

func input() provisioning.Input {
	no := false
	return provisioning.Input{
		VMID: vmID, HostName: "vm-01", UserName: "azureuser", Password: host.NewSecret(passwd), DisablePasswordAuth: &no,
		Keys:       []provisioning.Key{{Path: "$HOME/azureuser/.ssh/authorized_keys", Value: edKey}},
		CustomData: provisioning.DecodeCustomData(base64.StdEncoding.EncodeToString([]byte("#!/bin/sh\necho hi\nexit 0\n\x00\xff"))),
		Copy:       []byte("<Environment/>"),
	}
}

func options() provisioning.Options {
	return provisioning.Options{DeleteRootPassword: true, RegenerateHostKeys: true, ClientAliveInterval: "180"}
}

func plan(t *testing.T, m *machine, in provisioning.Input, o provisioning.Options) []provisioning.Step {
	t.Helper()
	f, err := m.provWith(o).Gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	steps, err := provisioning.Plan(in, f, o)
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

func apply(t *testing.T, m *machine, steps []provisioning.Step, o provisioning.Options, obs provisioning.Observer) (provisioning.Result, error) {
	t.Helper()
	j, err := m.provWith(o).OpenJournal()
	if err != nil {
		t.Fatal(err)
	}
	return m.provWith(o).Apply(t.Context(), steps, j, obs)
}

func TestAFreshMachineOfEachLayoutIsProvisioned(t *testing.T) {
	t.Parallel()
	for _, layout := range []string{"debian", "rhel", "suse", "alpine", "flatcar"} {
		t.Run(layout, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, layout)
			m.keys = sharedKeys()
			steps := plan(t, m, input(), options())
			res, err := apply(t, m, steps, options(), nil)
			if err != nil || len(res.Warnings) > 0 {
				t.Fatalf("Apply: %v, warnings %v", err, res.Warnings)
			}
			if m.name != "vm-01" || m.read("/etc/hostname") != "vm-01\n" {
				t.Errorf("host name %q, file %q", m.name, m.read("/etc/hostname"))
			}
			if got, want := m.read("/home/azureuser/.ssh/authorized_keys"), edKey+"\n"; got != want {
				t.Errorf("authorized_keys %q, want %q", got, want)
			}
			if sh := m.read("/etc/shadow"); !strings.Contains(sh, "azureuser:$6$") || !strings.Contains(sh, "root:*:19000:0:99999:7:::") {
				t.Errorf("shadow:\n%s", sh)
			}
			if got := m.read("/var/lib/waagent/provisioned"); got != vmID {
				t.Errorf("marker %q", got)
			}
			for _, f := range []string{"ed25519", "ecdsa", "rsa"} {
				if !strings.Contains(m.read("/etc/ssh/ssh_host_"+f+"_key"), "OPENSSH PRIVATE KEY") {
					t.Errorf("no %s host key", f)
				}
			}
			var conf string
			if layout == "alpine" || layout == "flatcar" {
				conf = m.read("/etc/ssh/sshd_config")
			} else {
				conf = m.read("/etc/ssh/sshd_config.d/00-azguest.conf")
			}
			// Values that the image sets already are not written again; the
			// others are.
			var said []string
			for line := range strings.Lines(conf) {
				if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasSuffix(key, "Authentication") || key == "ClientAliveInterval" {
					said = append(said, key+" "+value)
				}
			}
			want := map[string]string{
				"debian":  "KbdInteractiveAuthentication yes, ChallengeResponseAuthentication yes, ClientAliveInterval 180",
				"rhel":    "KbdInteractiveAuthentication yes, ChallengeResponseAuthentication yes, ClientAliveInterval 180",
				"suse":    "ClientAliveInterval 180",
				"alpine":  "ClientAliveInterval 180, PasswordAuthentication yes", // the second is the image's
				"flatcar": "PasswordAuthentication yes, PasswordAuthentication no, ClientAliveInterval 60",
			}[layout]
			if got := strings.Join(said, ", "); got != want {
				t.Errorf("sshd is told %s, want %s", got, want)
			}
			if layout == "flatcar" && strings.Contains(conf, "ClientAliveInterval 180") {
				t.Errorf("the image's own interval was overruled:\n%s", conf)
			}
			before := m.tree()
			if _, err := apply(t, m, plan(t, m, input(), options()), options(), nil); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, m.tree()); diff != "" {
				t.Errorf("a second run changed something (-first +second):\n%s", diff)
			}
		})
	}
}

// crash is the value of a panic in the observer: nothing after it runs, as
// with kill -9.
type crash struct{}

func TestAKillAtAnyPointConverges(t *testing.T) {
	t.Parallel()
	want := newMachine(t, "debian")
	want.keys = sharedKeys()
	if _, err := apply(t, want, plan(t, want, input(), options()), options(), nil); err != nil {
		t.Fatal(err)
	}
	wantTree := want.tree()
	for i, step := range plan(t, newMachine(t, "debian"), input(), options()) {
		for _, at := range []provisioning.State{provisioning.Doing, provisioning.Planned, provisioning.Done} {
			for _, reboot := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d %s %s reboot=%v", i, step.ID(), at, reboot), func(t *testing.T) {
					t.Parallel()
					m := newMachine(t, "debian")
					m.keys = sharedKeys()
					func() {
						defer func() {
							if r := recover(); r != nil {
								if _, ok := r.(crash); !ok {
									panic(r)
								}
							}
						}()
						_, err := apply(t, m, plan(t, m, input(), options()), options(), func(p provisioning.Progress) {
							if p.Step.ID() == step.ID() && p.State == at {
								panic(crash{})
							}
						})
						t.Errorf("not killed: %v", err)
					}()
					if reboot {
						m.write("/proc/sys/kernel/random/boot_id", "boot-2\n", 0o644)
					}
					if _, err := apply(t, m, plan(t, m, input(), options()), options(), nil); err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(wantTree, m.tree()); diff != "" {
						t.Errorf("differs from an undisturbed run (-want +got):\n%s", diff)
					}
				})
			}
		}
	}
}

func TestAFailedUserGatesWhatNeedsIt(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	m.keys = sharedKeys()
	steps := plan(t, m, input(), options())
	delete(m.run.Answers, "useradd")
	res, err := apply(t, m, steps, options(), nil)
	if got := provisioning.CodeOf(err); got != provisioning.CodeUser {
		t.Errorf("code %s, error %v", got, err)
	}
	got := map[string]provisioning.State{}
	for _, e := range res.Entries {
		got[e.ID] = e.State
	}
	want := map[string]provisioning.State{
		"host-name": "done", "user": "failed", "password": "skipped", "sudo": "skipped", "authorized-keys": "skipped",
		"host-keys": "done", "sshd": "done", "root-password": "done", "custom-data": "done", "document-copy": "done",
		"sshd-up": "done", "marker": "skipped", "late-host-keys": "done",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if m.root.Exists("/var/lib/waagent/provisioned") {
		t.Error("a failed machine has a marker")
	}
}

func TestNothingOnDiskOrInCommandsShowsThePassword(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	m.keys = sharedKeys()
	in := input()
	in.Password = host.NewSecret("canary-password-1")
	var seen []string
	steps := plan(t, m, in, options())
	if _, err := apply(t, m, steps, options(), func(p provisioning.Progress) {
		seen = append(seen, fmt.Sprintf("%v %+v", p.Step, p))
	}); err != nil {
		t.Fatal(err)
	}
	for name, text := range m.tree() {
		if strings.Contains(text, "canary-password-1") {
			t.Errorf("%s contains the password", name)
		}
	}
	for _, s := range append(seen, m.run.Commands()...) {
		if strings.Contains(s, "canary-password-1") {
			t.Errorf("shown: %s", s)
		}
	}
}

func TestACancelledRunSaysSo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cause error
		code  string
	}{
		"stopped":          {errors.New("stopped"), provisioning.CodeInternal},
		"the boot's limit": {provisioning.Overdue(18 * time.Minute), provisioning.CodeTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(tc.cause)
			j, err := m.prov().OpenJournal()
			if err != nil {
				t.Fatal(err)
			}
			_, err = m.prov().Apply(ctx, plan(t, m, input(), options()), j, nil)
			if got := provisioning.CodeOf(err); err == nil || got != tc.code || !strings.Contains(err.Error(), tc.cause.Error()) {
				t.Errorf("code %s, error %v", got, err)
			}
		})
	}
}

// TestIN1NothingFailsAfterTheMarker: a journal that cannot be written any more
// fails the machine before the marker, and never after it, because the next
// start takes the marker's word.
func TestIN1NothingFailsAfterTheMarker(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		step  string
		fails bool
	}{{provisioning.StepSSHDUp, true}, {provisioning.StepMarker, false}} {
		t.Run(tc.step, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			m.keys = sharedKeys()
			now, _ := provisioning.Split(plan(t, m, input(), options()))
			_, err := apply(t, m, now, options(), func(p provisioning.Progress) {
				if p.Step.ID() != tc.step || p.State != provisioning.Planned {
					return
				}
				dir := m.root.Path("/var/lib/waagent/azguest")
				if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
					t.Error(err)
				}
			})
			marked := m.root.Exists("/var/lib/waagent/provisioned")
			if (err != nil) != tc.fails || marked == tc.fails {
				t.Errorf("error %v, marker there: %v; want an error: %v", err, marked, tc.fails)
			}
		})
	}
}

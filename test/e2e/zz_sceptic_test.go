package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/fabric"
)

func sceptic(name, script string, flags map[string]any) (string, []byte, error) {
	b := bundles.Bundle{Name: name, Version: "1.0.0.0", Files: map[string]string{"bin/run": `#!/bin/sh
op=$1; seq=$ConfigSequenceNumber; base=$AZURE_GUEST_AGENT_EXTENSION_PATH
echo "$(date +%s.%N) $op $seq" >>/var/tmp/calls.` + name + `
say() { printf '[{"version":1.0,"timestampUTC":"2024-01-01T00:00:00Z","status":{"name":"t","operation":"Enable","status":"%s","code":0,"formattedMessage":{"lang":"en-US","message":"%s"}}}]' "$1" "$2" > $base/status/$seq.status; }
` + script}, Flags: flags}
	for n, c := range map[string]*string{"install": &b.Install, "enable": &b.Enable, "disable": &b.Disable, "update": &b.Update, "uninstall": &b.Uninstall} {
		*c = "bin/run " + n
	}
	z, err := b.Zip()
	return b.Name + "/" + b.Version, z, err
}

func TestZZSceptic(t *testing.T) {
	o := blank()
	for name, script := range map[string]string{
		"Sceptic.Plain": "[ $op = enable ] && say success ok\nexit 0\n",
		"Sceptic.Apt":   ": apt-get\n[ $op = enable ] && say success ok\nexit 0\n",
		"Sceptic.Prot":  "[ $op = enable ] && { t=$(sed -n 's/.*Thumbprint\": *\"\\([0-9A-F]*\\).*/\\1/p' config/$seq.settings); [ -e /var/lib/waagent/$t.prv ] && say success ok || say error \"no key $t\"; }\nexit 0\n",
		"Sceptic.Long":  "[ $op = enable ] && { say transitioning working; setsid sh -c 'exec sleep 300' >/dev/null 2>&1 & }\nexit 0\n",
	} {
		n, z, err := sceptic(name, script, nil)
		if err != nil {
			t.Fatal(err)
		}
		o.packages[n] = z
	}
	c := newAgentCloud(t, o)
	c.agent(t)
	c.ready(t)
	state := func(name string) string {
		s, err := c.vm.ProvisioningState(name)
		return fmt.Sprint(s, " ", err)
	}
	put := func(name string, x fabric.Extension) time.Time {
		x.Handler, x.Version = "Sceptic."+name, "1.0"
		if err := c.vm.Put(x); err != nil {
			t.Error(err)
		}
		return time.Now()
	}
	wait := func(what, name string, since time.Time) {
		if what == "410 on all" {
			time.Sleep(50 * time.Second)
		}
		await(t, what, func() bool { return strings.HasPrefix(state(name), "Succeeded") || strings.HasPrefix(state(name), "Failed") })
		t.Logf("%s: %s after %v", what, state(name), time.Since(since))
	}
	wait("plain", "Plain", put("Plain", fabric.Extension{Settings: map[string]any{"a": 1}}))

	// 410 on everything for 45 s.
	before := len(c.f.Journal(fabric.Query{}))
	if _, err := c.f.Fail(fabric.Fault{Kind: "*", Status: 410, For: fabric.Duration(45 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	at := put("Plain", fabric.Extension{Settings: map[string]any{"a": 2}})
	wait("410 on all", "Plain", at)
	t.Logf("requests meanwhile: %d", len(c.f.Journal(fabric.Query{}))-before)

	// certificates missing, then there.
	c.f.Mend(0)
	if _, err := c.f.Fail(fabric.Fault{Kind: fabric.Certificates, Status: 404}); err != nil {
		t.Fatal(err)
	}
	if err := c.vm.RotateCertificate(); err != nil {
		t.Fatal(err)
	}
	at = put("Prot", fabric.Extension{Protected: map[string]any{"s": "x"}, Settings: map[string]any{"a": 2}})
	await(t, "wait for the certificate", func() bool { d, _ := c.vm.StatusDocument(); return strings.Contains(string(d), "is waiting for the certificate") })
	c.f.Mend(0)
	wait("certificate late", "Prot", at)

	// apt lock held by a stranger.
	c.sh(t, `mkdir -p /var/lib/dpkg; (perl -e 'use Fcntl; open F,">>","/var/lib/dpkg/lock-frontend" or die; $l=pack("s s l! l! i",F_WRLCK,0,0,0,0); fcntl(F,F_SETLK,$l) or die; sleep 12' >/dev/null 2>&1 &); sleep 0.5`)
	at = put("Apt", fabric.Extension{Settings: map[string]any{"a": 2}})
	await(t, "wait for apt", func() bool { d, _ := c.vm.StatusDocument(); return strings.Contains(string(d), "is waiting for the package manager, used by perl (process") })
	wait("apt lock", "Apt", at)

	// delete while transitioning
	put("Long", fabric.Extension{Settings: map[string]any{"a": 2}})
	await(t, "transitioning", func() bool { d, _ := c.vm.StatusDocument(); return strings.Contains(string(d), `"message":"working"`) })
	at = time.Now()
	if err := c.vm.DeleteExtension("Long"); err != nil {
		t.Fatal(err)
	}
	await(t, "deleted", func() bool { d, _ := c.vm.StatusDocument(); return !strings.Contains(string(d), "Sceptic.Long") })
	t.Logf("deleted after %v: %s", time.Since(at), c.sh(t, "ls -d /var/lib/waagent/Sceptic.Long* || echo none; cat /var/tmp/calls.Sceptic.Long"))

	// sequence number going back
	c.vm.NextSequence("Sceptic.Plain", "", 0)
	at = put("Plain", fabric.Extension{Settings: map[string]any{"a": 7}})
	wait("number back", "Plain", at)
	t.Logf("%s", c.sh(t, "cat /var/tmp/calls.Sceptic.Plain; ls /var/lib/waagent/Sceptic.Plain*/config /var/lib/waagent/Sceptic.Plain*/status"))

	// hibernate
	if err := c.vm.Hibernate(); err != nil {
		t.Fatal(err)
	}
	at = put("Prot", fabric.Extension{Protected: map[string]any{"s": "y"}, Settings: map[string]any{"a": 3}})
	wait("after hibernation", "Prot", at)
	t.Logf("log:\n%s", c.log.String()[max(0, len(c.log.String())-6000):])
}

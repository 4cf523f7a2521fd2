package platform

import (
	"crypto/sha1" //nolint:gosec // thumbprints are SHA-1
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/cms"
	"github.com/azguest/azguest/protocol/transfer"
	"github.com/azguest/azguest/protocol/wire"
)

// The tests here are the error-prone facts of protocol/SPEC.md §18, by number.
// Fact 18 is checked with 8 and 9. Fact 11 is tested in protocol/hostga, 19,
// 20 and 22 in extensions, 21 in agent, 25 in agent/firewall. For fact 24 the
// passwords are tested here, the accounts in provisioning.

const ticks0 = 638712864000000000

func extWith(ticks int64, plugins, settings string) string {
	return fmt.Sprintf(`<Extensions><StatusUploadBlob statusBlobType="BlockBlob">https://st.blob.example/s/vm.status?sig=canary</StatusUploadBlob>
<InVMGoalStateMetaData createdOnTicks="%d" inSvdSeqNo="99"/><Plugins>%s</Plugins><PluginSettings>%s</PluginSettings></Extensions>`, ticks, plugins, settings)
}

func vmWith(ticks int64, source, extensions string) string {
	return fmt.Sprintf(`{"hostGAPluginVersion":"1.0.8.175","inSvdSeqNo":10,"extensionsLastModifiedTickCount":%d,"extensionGoalStatesSource":%q,"onHold":false,
"statusUploadBlob":{"statusBlobType":"BlockBlob","value":"https://st.blob.example/s/vm.status?sig=canary"},"extensionGoalStates":[%s]}`, ticks, source, extensions)
}

// bubble runs a test on fake time with a host and a connected client.
func bubble(t *testing.T, prepare func(*fakeHost), test func(t *testing.T, f *fakeHost, c *Client)) {
	t.Helper()
	testKey() // made outside: it is shared
	synctest.Test(t, func(t *testing.T) {
		f := newHost(t)
		if prepare != nil {
			prepare(f)
		}
		c := f.client(host.Root(t.TempDir()), nil)
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		test(t, f, c)
	})
}

func mustGS(t *testing.T, c *Client, known string) *protocol.GoalState {
	t.Helper()
	gs, err := c.GoalState(t.Context(), known)
	if err != nil {
		t.Fatal(err)
	}
	return gs
}

func notModified(t *testing.T, c *Client, known string) {
	t.Helper()
	if gs, err := c.GoalState(t.Context(), known); !errors.Is(err, protocol.ErrNotModified) {
		t.Fatalf("GoalState(%s) = %+v, %v; want not modified", known, gs, err)
	}
}

func TestFact01And05CipherDecidesTransportAndFailureIsNotFatal(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]map[string]int{
		"AES":     nil,
		"DES":     {"certificates AES128_CBC": 500},
		"neither": {"certificates AES128_CBC": 500, "certificates DES_EDE3_CBC": 404},
	} {
		bubble(t, func(f *fakeHost) {
			f.tenant = []tenant{newTenant(f.t, "tenant")}
			maps.Copy(f.fail, fail)
		}, func(t *testing.T, f *fakeHost, c *Client) {
			gs := mustGS(t, c, "")
			if name == "neither" {
				if gs.CertsErr == nil || len(gs.Certs) != 0 {
					t.Errorf("%s: %v, %d certificates", name, gs.CertsErr, len(gs.Certs))
				}
				// It is asked again, and found, without a new incarnation.
				f.set(func() { clear(f.fail) })
				for range 60 {
					time.Sleep(6 * time.Second)
					if gs2, err := c.GoalState(t.Context(), gs.Key()); err == nil {
						if len(gs2.Certs) != 1 || gs2.CertsErr != nil {
							t.Errorf("%s: later: %v, %d certificates", name, gs2.CertsErr, len(gs2.Certs))
						}
						return
					}
				}
				t.Errorf("%s: never asked again", name)
				return
			}
			if gs.CertsErr != nil || len(gs.Certs) != 1 || !gs.Certs[0].KeyPEM.Set() {
				t.Errorf("%s: %v, %+v", name, gs.CertsErr, gs.Certs)
			}
			// The second cipher is only used if the first one fails.
			if n, want := len(f.requests("comp=certificates")), map[string]int{"AES": 1, "DES": 3}[name]; n != want {
				t.Errorf("%s: asked %d times, want %d", name, n, want)
			}
			// The previous certificates are better than none.
			f.set(func() {
				f.inc = "2"
				f.fail["certificates AES128_CBC"], f.fail["certificates DES_EDE3_CBC"] = 404, 404
			})
			if gs = mustGS(t, c, gs.Key()); gs.CertsErr == nil || len(gs.Certs) != 1 {
				t.Errorf("%s: without new ones: %v, %+v", name, gs.CertsErr, gs.Certs)
			}
		})
	}
}

// TestFact03And04ContentsOfThePFX: no password is needed, and another party's
// certificate without a key does not make the rest unusable.
func TestFact03And04ContentsOfThePFX(t *testing.T) {
	t.Parallel()
	own, other := newTenant(t, "own"), stranger(t)
	otherThumb := fmt.Sprintf("%X", sha1.Sum(other.cert.Raw)) //nolint:gosec // thumbprints are SHA-1
	bubble(t, func(f *fakeHost) { f.tenant = []tenant{own, other} }, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		if gs.CertsErr != nil || len(gs.Certs) != 2 {
			t.Fatalf("certificates: %v, %+v", gs.CertsErr, gs.Certs)
		}
		for _, k := range gs.Certs {
			if k.KeyPEM.Set() != (k.Thumbprint == thumbprint(own)) {
				t.Errorf("%s has a key: %v", k.Thumbprint, k.KeyPEM.Set())
			}
		}
		// Settings encrypted to the one without can't be opened.
		f.set(func() {
			f.inc, f.ext = "2", extWith(ticks0+1, `<Plugin name="A" version="1" location="https://a" state="enabled"/>`,
				fmt.Sprintf(`<Plugin name="A" version="1"><RuntimeSettings seqNo="1">{"runtimeSettings":[{"handlerSettings":{"protectedSettings":"MIIB","protectedSettingsCertThumbprint":%q}}]}</RuntimeSettings></Plugin>`, otherThumb))
		})
		if gs = mustGS(t, c, gs.Key()); gs.CertsErr == nil || !strings.Contains(gs.CertsErr.Error(), otherThumb) {
			t.Errorf("a certificate without its key is enough: %v", gs.CertsErr)
		}
	})
}

// TestCertificatesComeBackToDisk: handlers read certificates from files, which
// are restored if they were lost (protocol/SPEC.md §5.5, §7.4).
func TestCertificatesComeBackToDisk(t *testing.T) {
	t.Parallel()
	testKey()
	own := newTenant(t, "own")
	synctest.Test(t, func(t *testing.T) {
		f := newHost(t)
		f.tenant, f.vm, f.etag = []tenant{own}, vmWith(ticks0+1, "FastTrack", ""), "1"
		root := host.Root(t.TempDir())
		c := f.client(root, nil)
		gs := mustGS(t, c, "")
		name := "/var/lib/waagent/" + thumbprint(own)
		for _, suffix := range []string{".crt", ".prv"} {
			if err := root.Remove(name + suffix); err != nil {
				t.Fatal(err)
			}
		}
		f.set(func() { f.vm, f.etag = vmWith(ticks0+2, "FastTrack", ""), "2" })
		mustGS(t, c, gs.Key())
		for _, suffix := range []string{".crt", ".prv"} {
			if fi, err := os.Stat(root.Path(name + suffix)); err != nil || fi.Mode().Perm() != 0o400 {
				t.Errorf("%s%s: %v, %v", name, suffix, fi, err)
			}
		}
	})
}

func TestFact02TransportCertificateCarriesSHA1KeyIdentifier(t *testing.T) {
	t.Parallel()
	root := host.Root(t.TempDir())
	k := &transportKey{root: root, dir: "/lib", vmid: "a"}
	pair, head, err := k.get(t.Context())
	if err != nil || strings.ContainsAny(head, "\n -") {
		t.Fatalf("get: %v, header %q", err, head)
	}
	c := pair.Cert
	if string(c.SubjectKeyId) != string(cms.KeyID(c)) || string(c.AuthorityKeyId) != string(c.SubjectKeyId) || !c.IsCA || c.Subject.String() != "CN=LinuxTransport" {
		t.Errorf("certificate: key id %x, authority %x, CA %v, %s", c.SubjectKeyId, c.AuthorityKeyId, c.IsCA, c.Subject)
	}
	for _, name := range []string{certFile, keyFile} {
		if fi, err := os.Stat(root.Path("/lib/" + name)); err != nil || fi.Mode().Perm() != 0o400 {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	// Kept on the same machine, never on another.
	same := &transportKey{root: root, dir: "/lib", vmid: "a"}
	if p, _, err := same.get(t.Context()); err != nil || !p.RSA.Equal(pair.RSA) {
		t.Errorf("not kept: %v", err)
	}
	other := &transportKey{root: root, dir: "/lib", vmid: "b"}
	if p, _, err := other.get(t.Context()); err != nil || p.RSA.Equal(pair.RSA) {
		t.Errorf("kept on another machine: %v", err)
	}
}

func TestFact06HibernateBringsOtherCertificatesUnderTheSameIncarnation(t *testing.T) {
	t.Parallel()
	old, fresh := newTenant(t, "old"), newTenant(t, "new")
	thumb := thumbprint(fresh)
	ext := fmt.Sprintf(`{"name":"A","version":"1","state":"enabled","location":"https://a","settingsSeqNo":1,"settings":[{"publicSettings":null,"protectedSettings":"MIIB","protectedSettingsCertThumbprint":%q}]}`, thumb)
	bubble(t, func(f *fakeHost) { f.tenant, f.vm, f.etag = []tenant{old}, vmWith(ticks0+1, "FastTrack", ""), "1" }, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		f.set(func() { f.vm, f.etag = vmWith(ticks0+2, "FastTrack", ext), "2" })
		f.clear()
		gs = mustGS(t, c, gs.Key())
		if gs.CertsErr == nil || !strings.Contains(gs.CertsErr.Error(), thumb) || len(f.requests("comp=certificates")) != 1 {
			t.Errorf("at once: %v, asked %d times", gs.CertsErr, len(f.requests("comp=certificates")))
		}
		f.set(func() { f.tenant = []tenant{fresh} })
		time.Sleep(5 * time.Second)
		notModified(t, c, gs.Key())
		time.Sleep(time.Second)
		gs = mustGS(t, c, gs.Key())
		if gs.CertsErr != nil || len(gs.Certs) != 1 || gs.Certs[0].Thumbprint != thumb {
			t.Errorf("after six seconds: %v, %+v", gs.CertsErr, gs.Certs)
		}
	})
	// A certificate that never comes does not make a hot loop.
	bubble(t, func(f *fakeHost) { f.tenant, f.vm, f.etag = []tenant{old}, vmWith(ticks0+1, "FastTrack", ext), "1" }, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		f.clear()
		for range 600 {
			time.Sleep(6 * time.Second)
			_, _ = c.GoalState(t.Context(), gs.Key())
		}
		if n := len(f.requests("comp=certificates")); n > 25 || n < 10 {
			t.Errorf("asked %d times in an hour", n)
		}
	})
}

// TestFact06ResumedUnderAnIncarnationAlreadySeen: the machine was away for so
// long that the new host's incarnation is the one we know, with other
// documents. Only their addresses show it.
func TestFact06ResumedUnderAnIncarnationAlreadySeen(t *testing.T) {
	t.Parallel()
	old, fresh := newTenant(t, "old"), newTenant(t, "new")
	bubble(t, func(f *fakeHost) { f.inc, f.tenant = "3", []tenant{old} }, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		f.set(func() {
			f.container, f.config, f.tenant = "c2", "dep.1.xml", []tenant{fresh}
			f.ext = extWith(ticks0+5, `<Plugin name="A" version="1" location="https://a" state="enabled"/>`, "")
		})
		next := mustGS(t, c, gs.Key())
		if len(next.Handlers) != 1 || len(next.Certs) != 1 || next.Certs[0].Thumbprint != thumbprint(fresh) || next.Key() == gs.Key() {
			t.Errorf("after the resumption: %+v, %+v", next.Handlers, next.Certs)
		}
		// Failing requests at the new place neither cause a loop nor make the
		// documents of the old one unusable.
		f.set(func() { f.container, f.fail["extensionsConfig"] = "c3", 503 })
		f.clear()
		for range 600 {
			notModified(t, c, next.Key())
			time.Sleep(6 * time.Second)
		}
		if n := len(f.requests("extensionsConfig")); n > 20 || n < 10 {
			t.Errorf("asked %d times in an hour", n)
		}
	})
}

// TestFact06IncarnationsAreNotOrdered: a lower incarnation is as new as a
// higher one, and nothing else need have changed.
func TestFact06IncarnationsAreNotOrdered(t *testing.T) {
	t.Parallel()
	bubble(t, func(f *fakeHost) { f.fixed, f.inc = true, "10" }, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		for i, inc := range []string{"9", "10", "1"} {
			f.set(func() { f.inc, f.ext = inc, extWith(ticks0+int64(i), "", "") })
			f.clear()
			if gs = mustGS(t, c, gs.Key()); gs.ID != "incarnation_"+inc || len(f.requests("extensionsConfig")) != 1 {
				t.Errorf("incarnation %s: %s, %v", inc, gs.ID, f.requests(""))
			}
		}
	})
}

func thumbprint(t tenant) string {
	p, err := cms.ParsePFX(mustPFX(t), "")
	if err != nil {
		panic(err)
	}
	return p.Pairs[0].Thumbprint
}

func TestFact07ContainerChangesWithoutIncarnation(t *testing.T) {
	t.Parallel()
	bubble(t, func(f *fakeHost) { f.vm, f.etag = vmWith(ticks0+1, "FastTrack", ""), "1" }, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		f.set(func() { f.container, f.config = "c2", "dep.1.xml" })
		f.clear()
		notModified(t, c, gs.Key())
		if n := f.requests("goalstate"); len(n) != 1 || len(f.requests("vmSettings")) != 1 {
			t.Errorf("the look itself did not bring the names: %v", f.requests(""))
		}
		f.clear()
		if _, err := c.ReportStatus(t.Context(), protocol.Status{}); err != nil {
			t.Errorf("status after a move: %v", err)
		}
		if n := len(f.requests("goalstate")); n != 0 {
			t.Errorf("the names were refreshed %d times, want never", n)
		}
	})
}

func TestFact08And09SourceAndTicksDecide(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		vm   string
		want protocol.Source
	}{
		"fabric vmSettings, newer": {vmWith(ticks0+9, "Fabric", ""), protocol.Fabric},
		"tie":                      {vmWith(ticks0, "FastTrack", ""), protocol.Fabric},
		"older":                    {vmWith(ticks0-1, "FastTrack", ""), protocol.Fabric},
		"newer":                    {vmWith(ticks0+1, "FastTrack", ""), protocol.FastTrack},
	} {
		bubble(t, func(f *fakeHost) { f.vm, f.etag = tc.vm, "7" }, func(t *testing.T, f *fakeHost, c *Client) {
			gs := mustGS(t, c, "")
			if gs.Source != tc.want {
				t.Errorf("%s: %s, want %s", name, gs.Source, tc.want)
			}
			if want := map[protocol.Source]string{protocol.Fabric: `"1"`, protocol.FastTrack: `10`}[tc.want]; string(gs.SeqNo) != want {
				t.Errorf("%s: inSvdSeqNo %s, want %s", name, gs.SeqNo, want)
			}
			// An older candidate never replaces the current one.
			f.set(func() { f.inc, f.ext = "2", extWith(ticks0-5, "", "") })
			gs2, err := c.GoalState(t.Context(), gs.Key())
			if err != nil {
				t.Fatal(err)
			}
			if gs2.CreatedTicks != gs.CreatedTicks || gs2.Incarnation != "2" {
				t.Errorf("%s: %d of incarnation %s replaced %d", name, gs2.CreatedTicks, gs2.Incarnation, gs.CreatedTicks)
			}
			// A newer one does, and one of the same time (protocol/SPEC.md §7.4, step 5).
			f.set(func() { f.inc, f.ext = "3", extWith(ticks0+50, "", "") })
			gs3 := mustGS(t, c, gs2.Key())
			if gs3.ID != "incarnation_3" {
				t.Errorf("%s: %s, want incarnation_3", name, gs3.ID)
			}
			f.set(func() { f.inc = "4" })
			if gs4 := mustGS(t, c, gs3.Key()); gs4.ID != "incarnation_4" {
				t.Errorf("%s: %s, want incarnation_4", name, gs4.ID)
			}
		})
	}
}

// TestFact08FabricSettingsEndFastTrack: the marker is removed with the first
// vmSettings whose source is Fabric.
func TestFact08FabricSettingsEndFastTrack(t *testing.T) {
	t.Parallel()
	testKey()
	synctest.Test(t, func(t *testing.T) {
		f := newHost(t)
		f.vm, f.etag = vmWith(ticks0+600_000_000, "FastTrack", ""), "1"
		root := host.Root(t.TempDir())
		mustGS(t, f.client(root, nil), "")
		f.set(func() { f.vm, f.etag = vmWith(ticks0+700_000_000, "fabric", ""), "2" })
		if gs := mustGS(t, f.client(root, nil), ""); gs.Source != protocol.Fabric || gs.Outdated || root.Exists("/var/lib/waagent/fast_track.json") {
			t.Errorf("%s of %s, outdated %v", gs.ID, gs.Source, gs.Outdated)
		}
	})
}

// TestVMSettingsWithoutASource are used, but are not FastTrack: the host does
// not check addresses for them (protocol/SPEC.md §7.6).
func TestVMSettingsWithoutASource(t *testing.T) {
	t.Parallel()
	bubble(t, func(f *fakeHost) {
		f.vm, f.etag = vmWith(ticks0+1, "", `{"name":"A","version":"1","state":"enabled"}`), "1"
		f.blobs["https://a.example/m.xml"] = []byte(`<PluginVersionManifest/>`)
	}, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		if gs.ID != "etag_1" || len(gs.Handlers) != 1 {
			t.Errorf("goal state %s: %+v", gs.ID, gs.Handlers)
		}
		for _, verified := range []bool{false, true} {
			f.set(func() { f.verified = nil })
			if _, err := c.Manifest(t.Context(), []secret.URL{secret.NewURL("https://a.example/m.xml")}); err != nil {
				t.Fatal(err)
			}
			if len(f.verified) != 1 || f.verified[0] != verified {
				t.Errorf("asked the host to verify: %v, want %v", f.verified, verified)
			}
			if !verified {
				f.set(func() { f.vm, f.etag = vmWith(ticks0+2, "FastTrack", ""), "2" })
				gs = mustGS(t, c, gs.Key())
			}
		}
	})
}

// TestUndatedGoalStates: a document without a date replaces one of the same
// source, and never one of the other.
func TestUndatedGoalStates(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		vm, vm2  string
		inc, ext string
		want     string
	}{
		"extensions":               {"", "", "2", extWith(0, "", ""), "incarnation_2"},
		"vmSettings":               {vmWith(ticks0+1, "FastTrack", ""), vmWith(0, "FastTrack", ""), "1", "", "etag_8"},
		"extensions, of FastTrack": {vmWith(ticks0+1, "FastTrack", ""), vmWith(ticks0+1, "FastTrack", ""), "2", extWith(0, "", ""), "etag_8"},
	} {
		bubble(t, func(f *fakeHost) { f.vm, f.etag = tc.vm, "7" }, func(t *testing.T, f *fakeHost, c *Client) {
			gs := mustGS(t, c, "")
			f.set(func() {
				f.vm, f.etag, f.inc = tc.vm2, "8", tc.inc
				if tc.ext != "" {
					f.ext = tc.ext
				}
			})
			gs2, err := c.GoalState(t.Context(), gs.Key())
			if err != nil || gs2.ID != tc.want {
				t.Errorf("%s: %v, %v, want %s", name, gs2, err, tc.want)
			}
		})
	}
}

// TestGoalStateFromTheFuture: an impossible date does not make all later goal
// states look old.
func TestGoalStateFromTheFuture(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ vm, ext, want string }{
		"extensions": {"", extWith(math.MaxInt64, "", ""), "incarnation_2"},
		"vmSettings": {vmWith(math.MaxInt64, "FastTrack", ""), "", "etag_8"},
	} {
		bubble(t, func(f *fakeHost) {
			f.vm, f.etag = tc.vm, "7"
			if tc.ext != "" {
				f.ext = tc.ext
			}
		}, func(t *testing.T, f *fakeHost, c *Client) {
			gs := mustGS(t, c, "")
			f.set(func() {
				if tc.vm != "" {
					f.vm, f.etag = vmWith(ticks0+7, "FastTrack", ""), "8"
				} else {
					f.inc, f.ext = "2", extWith(ticks0+7, "", "")
				}
			})
			gs2, err := c.GoalState(t.Context(), gs.Key())
			if err != nil || gs2.ID != tc.want || gs2.Outdated {
				t.Errorf("%s: %v, %v, want %s", name, gs2, err, tc.want)
			}
		})
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const today = 639028224000000000
	for ticks, want := range map[int64]int64{
		today: today, today + 300*864e9: today + 300*864e9, today + 400*864e9: 0, math.MaxInt64: 0, -1: 0, 0: 0, 1: 1,
	} {
		if got := dated(ticks, now); got != want {
			t.Errorf("dated(%d) = %d, want %d", ticks, got, want)
		}
	}
	if got := dated(today, time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)); got != today {
		t.Error("a document is undated if the clock is not set")
	}
}

func TestFact10EndOfFastTrackSurvivesRestarts(t *testing.T) {
	t.Parallel()
	testKey()
	synctest.Test(t, func(t *testing.T) {
		f := newHost(t)
		f.vm, f.etag = vmWith(ticks0+600_000_000, "FastTrack", ""), "1"
		root := host.Root(t.TempDir())
		c := f.client(root, nil)
		gs := mustGS(t, c, "")
		if !c.FastTrack() || !root.Exists("/var/lib/waagent/fast_track.json") {
			t.Fatalf("no marker for %s", gs.ID)
		}
		// The host moves to one without vmSettings.
		f.set(func() { f.vm = "" })
		gs2 := mustGS(t, c, gs.Key())
		if !gs2.Outdated || gs2.Source != protocol.Fabric || c.FastTrack() {
			t.Errorf("after the end: %+v", gs2)
		}
		// The same holds after a restart, until the platform sends something
		// newer.
		c = f.client(root, nil)
		if gs = mustGS(t, c, ""); !gs.Outdated {
			t.Error("executed an outdated goal state after a restart")
		}
		f.set(func() { f.inc, f.ext = "2", extWith(ticks0+700_000_000, "", "") })
		if gs = mustGS(t, c, gs.Key()); gs.Outdated || root.Exists("/var/lib/waagent/fast_track.json") {
			t.Errorf("newer goal state: outdated %v", gs.Outdated)
		}
	})
}

// TestLostVMSettingsComeBack: a 404 means that the host has no vmSettings, but
// a host that had them a moment ago is asked again sooner than after six
// hours.
func TestLostVMSettingsComeBack(t *testing.T) {
	t.Parallel()
	for away, most := range map[time.Duration]time.Duration{2 * time.Minute: time.Minute, 20 * time.Hour: settingsReprobe} {
		bubble(t, func(f *fakeHost) { f.vm, f.etag = vmWith(ticks0+1, "FastTrack", ""), "1" }, func(t *testing.T, f *fakeHost, c *Client) {
			gs := mustGS(t, c, "")
			f.set(func() { f.fail["vmSettings"] = 404 })
			f.clear()
			for start := time.Now(); time.Since(start) < away; time.Sleep(6 * time.Second) {
				_, _ = c.GoalState(t.Context(), gs.Key())
			}
			if n := len(f.requests("vmSettings")); n > 25 {
				t.Errorf("asked %d times in %v", n, away)
			}
			f.set(func() { clear(f.fail); f.vm, f.etag = vmWith(ticks0+2, "FastTrack", ""), "2" })
			start := time.Now()
			for {
				if gs, err := c.GoalState(t.Context(), ""); err == nil && gs.ETag == "2" {
					break
				}
				time.Sleep(6 * time.Second)
				if time.Since(start) > most+10*time.Second {
					t.Fatalf("away %v: not back after %v", away, most)
				}
			}
		})
	}
}

func TestUnreadableFastTrackMarkerMeansNow(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, f *fakeHost, _ *Client) {
		root := host.Root(t.TempDir())
		if err := root.MkdirAll("/var/lib/waagent", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := root.WriteFile("/var/lib/waagent/fast_track.json", []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		f.ext = extWith(ticks0-100*365*864000000000, "", "") // long before the bubble's 2000
		if gs := mustGS(t, f.client(root, nil), ""); !gs.Outdated {
			t.Error("an unreadable marker was ignored")
		}
	})
}

func TestFact12And13HeadersAndAddresses(t *testing.T) {
	t.Parallel()
	// The fake host complains about missing versions and changed addresses.
	bubble(t, nil, func(t *testing.T, f *fakeHost, c *Client) {
		mustGS(t, c, "")
		if len(f.requests("/machine/?comp=goalstate")) == 0 || len(f.requests("/machine/c1/dep%2D1.%5Fvm?comp=config&type=extensionsConfig&incarnation=1")) != 1 {
			t.Errorf("requests: %v", f.requests(""))
		}
		if err := c.ReportHealth(t.Context(), protocol.Health{State: protocol.Ready}); err != nil || len(f.requests("/machine?comp=health")) != 1 {
			t.Errorf("health: %v", err)
		}
		if err := c.SendEvents(t.Context(), []event.Event{{Kind: event.Operation, Name: "A"}}); err != nil || len(f.requests("/machine?comp=telemetrydata")) != 1 {
			t.Errorf("telemetry: %v", err)
		}
	})
}

func TestFact14ThrottlingIsRetried(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, f *fakeHost, c *Client) {
		f.set(func() { f.fail["comp=health"] = 403 })
		time.AfterFunc(20*time.Second, func() { f.set(func() { clear(f.fail) }) })
		start := time.Now()
		if err := c.ReportHealth(t.Context(), protocol.Health{State: protocol.Ready}); err != nil || len(f.health) != 1 {
			t.Errorf("health: %v, %d", err, len(f.health))
		}
		if d := time.Since(start); d > 51*time.Second { // 1, 3, 9 and 27 s, a quarter longer at most
			t.Errorf("took %v", d)
		}
	})
}

func TestFact15StaleNamesAreRefreshed(t *testing.T) {
	t.Parallel()
	bubble(t, func(f *fakeHost) { f.blobs["https://a.example/m.xml"] = []byte(`<PluginVersionManifest/>`) }, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		f.set(func() { f.container = "c9" })
		f.clear()
		if _, err := c.Manifest(t.Context(), []secret.URL{secret.NewURL("https://a.example/m.xml?sig=1")}); err != nil {
			t.Errorf("manifest: %v", err)
		}
		if len(f.requests("goalstate")) != 1 || len(f.requests("extensionArtifact")) != 2 {
			t.Errorf("requests: %v", f.requests(""))
		}
		// A status report is not repeated: the next one will do.
		f.set(func() { f.container = "c10" })
		r, err := c.ReportStatus(t.Context(), protocol.Status{})
		if !errors.Is(err, ErrLater) || r.Accepted || len(f.requests("st.blob.example")) != 0 {
			t.Errorf("status: %+v, %v", r, err)
		}
		if r, err = c.ReportStatus(t.Context(), protocol.Status{}); err != nil || !r.Accepted {
			t.Errorf("next status: %+v, %v", r, err)
		}
		// The host can say the same with a 400; a status is then sent directly.
		f.set(func() { f.container, f.invalid = "c11", true })
		if _, err := c.Manifest(t.Context(), []secret.URL{secret.NewURL("https://a.example/m.xml?sig=1")}); err != nil {
			t.Errorf("manifest after a 400: %v", err)
		}
		f.set(func() { f.container, f.ext = "c12", strings.Replace(f.ext, "https://st", "http://st", 1); f.inc = "2" })
		mustGS(t, c, gs.Key())
		f.set(func() { f.container = "c13" })
		if r, err = c.ReportStatus(t.Context(), protocol.Status{}); err != nil || !r.Accepted || r.Via != "direct" {
			t.Errorf("status after a 400: %+v, %v", r, err)
		}
	})
}

// TestStatusOfAHostThatIsAlwaysGone: after an ID change the client waits once
// for the next report. A host that always answers 410 must not keep the status
// from the platform for ever.
func TestStatusOfAHostThatIsAlwaysGone(t *testing.T) {
	t.Parallel()
	bubble(t, func(f *fakeHost) { f.ext = strings.Replace(extNone, "https://st.blob", "http://st.blob", 1) }, func(t *testing.T, f *fakeHost, c *Client) {
		mustGS(t, c, "")
		f.set(func() { f.fail["/status"] = 410 })
		if r, err := c.ReportStatus(t.Context(), protocol.Status{}); !errors.Is(err, ErrLater) || r.Accepted {
			t.Errorf("first status: %+v, %v", r, err)
		}
		for i := range 5 {
			time.Sleep(time.Minute)
			if r, err := c.ReportStatus(t.Context(), protocol.Status{}); err != nil || !r.Accepted || r.Via != "direct" {
				t.Errorf("status %d: %+v, %v", i+2, r, err)
			}
		}
		f.set(func() { clear(f.fail) })
		time.Sleep(10 * time.Minute)
		if r, err := c.ReportStatus(t.Context(), protocol.Status{}); err != nil || r.Via != "host" {
			t.Errorf("the host is well again: %+v, %v", r, err)
		}
	})
}

func TestFact16HealthBackoffIsCapped(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, f *fakeHost, c *Client) {
		mustGS(t, c, "")
		f.set(func() { f.fail["dial 168.63.129.16:80"] = 1 })
		c.Close()
		time.AfterFunc(2*time.Hour, func() { f.set(func() { clear(f.fail) }) })
		start := time.Now()
		if err := c.ReportHealth(t.Context(), protocol.Health{State: protocol.Ready}); err != nil {
			t.Error(err)
		}
		if late := time.Since(start) - 2*time.Hour; late > time.Minute {
			t.Errorf("%v late", late)
		}
	})
}

func TestFact17StatusGoesThroughTheHostThenDirectly(t *testing.T) {
	t.Parallel()
	for _, page := range []bool{false, true} {
		bubble(t, func(f *fakeHost) {
			f.ext = strings.Replace(extNone, "https://st.blob", "http://st.blob", 1)
			if page {
				f.ext = strings.Replace(f.ext, "BlockBlob", "PageBlob", 1)
			}
		}, func(t *testing.T, f *fakeHost, c *Client) {
			mustGS(t, c, "")
			r, err := c.ReportStatus(t.Context(), protocol.Status{})
			if err != nil || r.Via != "host" || !r.Accepted || !json.Valid(f.status) {
				t.Errorf("host: %+v, %v, %q", r, err, f.status)
			}
			if page && (len(f.status)%512 != 0 || !strings.HasSuffix(string(f.status), " ")) {
				t.Errorf("page of %d bytes", len(f.status))
			}
			f.set(func() { f.fail["/status"] = 500 })
			r, err = c.ReportStatus(t.Context(), protocol.Status{})
			if err != nil || r.Via != "direct" || !r.Accepted {
				t.Errorf("direct: %+v, %v", r, err)
			}
			if page && (len(f.status)%512 != 0 || f.status[len(f.status)-1] != 0) {
				t.Errorf("direct page of %d bytes", len(f.status))
			}
			if page && len(f.requests("&comp=page")) == 0 {
				t.Errorf("requests: %v", f.requests(""))
			}
			// Storage confirms with 201 only.
			f.set(func() { f.stored = 200 })
			if r, err = c.ReportStatus(t.Context(), protocol.Status{}); err == nil || r.Accepted {
				t.Errorf("storage said 200: %+v, %v", r, err)
			}
		})
	}
}

// TestFact17PagesOfALargeStatus: on both ways no write is larger than 4 MiB or
// ends between sectors, and the address may come without a query.
func TestFact17PagesOfALargeStatus(t *testing.T) {
	t.Parallel()
	for query, page := range map[string]string{"?sig=canary": "?sig=canary&comp=page", "": "?comp=page"} {
		bubble(t, func(f *fakeHost) {
			f.ext = strings.NewReplacer("https://st.blob", "http://st.blob", "BlockBlob", "PageBlob", "?sig=canary", query).Replace(extNone)
		}, func(t *testing.T, f *fakeHost, c *Client) {
			mustGS(t, c, "")
			large := protocol.Status{Agent: protocol.AgentStatus{Message: strings.Repeat("x", 9<<20)}}
			for _, via := range []string{"host", "direct"} {
				f.set(func() { f.puts = nil })
				if r, err := c.ReportStatus(t.Context(), large); err != nil || r.Via != via {
					t.Fatalf("%s: %+v, %v", via, r, err)
				}
				var at int
				var whole strings.Builder
				for i, p := range f.puts {
					_, q, _ := strings.Cut(p.url, "?")
					switch {
					case i == 0:
						if p.header.Get("x-ms-blob-type") != "PageBlob" || len(p.body) != 0 || "?"+q != query && q+query != "" {
							t.Errorf("%s: creation of %s: %v", via, p.url, p.header)
						}
						continue
					case "?"+q != page || len(p.body) > 4<<20 || len(p.body)%512 != 0 || p.header.Get("x-ms-page-write") != "update":
						t.Errorf("%s: %d bytes to %s: %v", via, len(p.body), p.url, p.header)
					}
					if want := fmt.Sprintf("bytes=%d-%d", at, at+len(p.body)-1); p.header.Get("x-ms-range") != want {
						t.Errorf("%s: range %q, want %q", via, p.header.Get("x-ms-range"), want)
					}
					at += len(p.body)
					whole.Write(p.body)
				}
				if n := f.puts[0].header.Get("x-ms-blob-content-length"); n != fmt.Sprint(at) || !json.Valid([]byte(strings.TrimRight(whole.String(), "\x00"))) {
					t.Errorf("%s: blob of %s bytes, %d written", via, n, at)
				}
				f.set(func() { f.fail["/status"] = 500 })
			}
		})
	}
}

// TestStatusBlobOfTheOtherKind: storage refuses a page blob where there is a
// block blob, and the reverse; the status is delivered all the same.
func TestStatusBlobOfTheOtherKind(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"BlockBlob", "PageBlob"} {
		other := map[string]string{"BlockBlob": "PageBlob", "PageBlob": "BlockBlob"}[kind]
		bubble(t, func(f *fakeHost) {
			f.kind, f.ext = kind, strings.NewReplacer("https://st.blob", "http://st.blob", "BlockBlob", other).Replace(extNone)
		}, func(t *testing.T, f *fakeHost, c *Client) {
			gs := mustGS(t, c, "")
			for i := range 3 {
				time.Sleep(time.Minute)
				f.set(func() { f.status = nil })
				r, err := c.ReportStatus(t.Context(), protocol.Status{})
				if err != nil || !r.Accepted || !json.Valid([]byte(strings.TrimRight(string(f.status), "\x00"))) || i > 0 && r.Via != "host" {
					t.Errorf("%s, report %d: %+v, %v", kind, i, r, err)
				}
			}
			// The goal state and the blob agree now.
			f.set(func() { f.kind, f.inc = other, "2" })
			gs = mustGS(t, c, gs.Key())
			if r, err := c.ReportStatus(t.Context(), protocol.Status{}); err != nil || !r.Accepted || gs.ID != "incarnation_2" {
				t.Errorf("%s, put right: %+v, %v", kind, r, err)
			}
		})
	}
}

func TestFact23InvalidHandlersComeThrough(t *testing.T) {
	t.Parallel()
	bubble(t, func(f *fakeHost) {
		f.ext = extWith(ticks0, `<Plugin name="Good" version="1" state="enabled"/><Plugin name="Bad" version="1" state="odd"/>`, "")
	}, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		if len(gs.Handlers) != 2 || gs.Handlers[0].Invalid != "" || gs.Handlers[1].Invalid == "" {
			t.Errorf("handlers: %+v", gs.Handlers)
		}
	})
}

// TestArtifactsProfile is onHold as bool and as string: whatever else is in the
// blob, or the way to it, does not stop extensions (protocol/SPEC.md §6.5).
func TestArtifactsProfile(t *testing.T) {
	t.Parallel()
	const url = "https://st.blob.example/profile"
	for text, want := range map[string]bool{
		`{"onHold":true}`: true, `{"OnHold":"True"}`: true, "\xef\xbb\xbf{\"onHold\":true}\x00\x00\x00": true,
		`{"onHold":false}`: false, `{"onHold":"false"}`: false, `{"onHold":1}`: false, `{}`: false, `null`: false, `{`: false, ``: false, "missing": false,
		`{"profileId":"p","error":null}`: false, `{"onHold":true,"error":"x"}`: true, `{"error":{"code":"ServerBusy"}}`: false, `{"errorCode":"x","message":"y"}`: false,
	} {
		bubble(t, func(f *fakeHost) {
			f.ext = strings.Replace(extNone, "</Extensions>", "<InVMArtifactsProfileBlob>"+url+"?sig=1</InVMArtifactsProfileBlob></Extensions>", 1)
			if text != "missing" {
				f.blobs[url] = []byte(text)
			}
		}, func(t *testing.T, _ *fakeHost, c *Client) {
			gs := mustGS(t, c, "")
			if gs.OnHold != want {
				t.Errorf("%q: on hold %v, want %v", text, gs.OnHold, want)
			}
			// What may be another service's answer is waited for, and so is a relay
			// that can't get it.
			if asked := text == "{" || text == "missing" || strings.HasPrefix(text, `{"error`); (gs.HoldErr != nil) != asked {
				t.Errorf("%q: %v, want an error: %v", text, gs.HoldErr, asked)
			}
		})
	}
}

func TestNoopGoalStateIsWaitedOut(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, f *fakeHost, c *Client) {
		f.set(func() { f.noop = 3 })
		start := time.Now()
		mustGS(t, c, "")
		if d := time.Since(start); d != 1500*time.Millisecond {
			t.Errorf("took %v, want 1.5s", d)
		}
		f.set(func() { f.noop, f.container = 100, "c5" })
		if _, err := c.GoalState(t.Context(), ""); !errors.Is(err, wire.ErrIncomplete) || c.getIDs().ContainerID != "c5" {
			t.Errorf("GoalState() = %v, container %s", err, c.getIDs().ContainerID)
		}
	})
}

func TestFact24PasswordsAreUTF16(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("AZGUEST_FIXTURES")
	if got := utf16LE([]byte{'p', 0, 0xe4, 0, 0x3d, 0xd8, 0, 0xde}); got != "pä😀" {
		t.Errorf("utf16LE = %q", got)
	}
	at, err := expiry("Wed, 01 Jan 2025 10:00:00 CET")
	if err != nil || !at.Equal(time.Date(2025, 1, 1, 10, 0, 0, 0, time.UTC)) {
		t.Errorf("expiry = %v, %v", at, err)
	}
	bubble(t, func(f *fakeHost) {
		f.secret = "pä😀"
		f.access = `<RemoteAccess><Users><User><Name>jit</Name><Password>{{secret}}</Password><Expiration>Wed, 01 Jan 2025 10:00:00 UTC</Expiration></User></Users></RemoteAccess>`
	}, func(t *testing.T, _ *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		if gs.Users == nil || len(gs.Users.Users) != 1 || gs.Users.Users[0].Err != nil || gs.Users.Users[0].Password.Reveal() != "pä😀" {
			t.Errorf("users: %+v", gs.Users)
		}
	})
	if dir == "" {
		t.Skip("AZGUEST_FIXTURES is not set")
	}
	b, err := os.ReadFile(filepath.Join(dir, "waagent/wire/remote_access_two_accounts.xml"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := wire.ParseRemoteAccess(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range doc.Users {
		if _, err := expiry(u.Expires); err != nil {
			t.Errorf("%s: %v", u.Name, err)
		}
	}
}

func TestVMSettingsTroubleDoesNotStopTheWireServer(t *testing.T) {
	t.Parallel()
	bubble(t, func(f *fakeHost) { f.fail["/vmSettings"] = 500 }, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		for range 600 {
			time.Sleep(6 * time.Second)
			notModified(t, c, gs.Key())
		}
		if n := len(f.requests("/vmSettings")); n > 21 {
			t.Errorf("asked %d times in an hour", n)
		}
	})
}

func TestIdleTraffic(t *testing.T) {
	t.Parallel()
	bubble(t, func(f *fakeHost) { f.vm, f.etag = vmWith(ticks0+1, "FastTrack", ""), `"e"` }, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		f.clear()
		for range 10 {
			time.Sleep(6 * time.Second)
			notModified(t, c, gs.Key())
		}
		if n := len(f.requests("")); n != 20 {
			t.Errorf("%d requests in an idle minute, want 20: %v", n, f.requests(""))
		}
		look := func(d time.Duration) {
			for start := time.Now(); time.Since(start) < d; {
				time.Sleep(6 * time.Second)
				notModified(t, c, gs.Key())
			}
		}
		// An idle machine polls vmSettings: the goal state document costs more.
		look(idleAfter)
		f.clear()
		look(time.Hour)
		if n, all := len(f.requests("comp=goalstate")), len(f.requests("")); n < 145 || n > 155 || all < 745 || all > 755 {
			t.Errorf("%d requests in an idle hour, %d for the goal state", all, n)
		}
		// A new goal state of the WireServer shows in vmSettings, at once.
		f.set(func() {
			f.inc, f.vm, f.etag, f.ext = "2", vmWith(ticks0+2, "Fabric", ""), `"f"`, extWith(ticks0+2, "", "")
		})
		time.Sleep(6 * time.Second)
		if gs = mustGS(t, c, gs.Key()); gs.Incarnation != "2" || gs.Source != protocol.Fabric {
			t.Errorf("after a change: %+v", gs)
		}
		// A change in the goal state document alone is seen at the fourth poll.
		look(idleAfter + time.Minute)
		f.set(func() { f.inc = "3" })
		start := time.Now()
		for gs.Incarnation != "3" {
			time.Sleep(6 * time.Second)
			if next, err := c.GoalState(t.Context(), gs.Key()); err == nil {
				gs = next
			}
		}
		if d := time.Since(start); d > 24*time.Second {
			t.Errorf("seen after %v", d)
		}
		// After that the document is fetched at every poll again.
		f.clear()
		look(time.Minute)
		if n := len(f.requests("comp=goalstate")); n != 10 {
			t.Errorf("%d requests in the minute after a change, want 10", n)
		}
		// On this host it is fetched at every poll, until vmSettings change
		// again.
		look(idleAfter)
		f.clear()
		look(time.Minute)
		if n := len(f.requests("comp=goalstate")); n != 10 {
			t.Errorf("%d looks at the goal state where vmSettings do not tell of it", n)
		}
		f.set(func() {
			f.inc, f.vm, f.etag, f.ext = "4", vmWith(ticks0+4, "Fabric", ""), `"g"`, extWith(ticks0+4, "", "")
		})
		time.Sleep(6 * time.Second)
		gs = mustGS(t, c, gs.Key())
		look(idleAfter + time.Minute)
		f.clear()
		look(4 * time.Minute)
		if n := len(f.requests("comp=goalstate")); n != 10 {
			t.Errorf("%d looks at the goal state in four minutes, after vmSettings told", n)
		}
	})
}

func TestTelemetryOffMeansNone(t *testing.T) {
	t.Parallel()
	testKey()
	synctest.Test(t, func(t *testing.T) {
		f := newHost(t)
		c := f.client(host.Root(t.TempDir()), func(o *Options) { o.NoTelemetry = true })
		mustGS(t, c, "")
		f.clear()
		_ = c.SendEvents(t.Context(), nil)
		_ = c.Heartbeat(t.Context())
		if n := f.requests(""); len(n) != 0 {
			t.Errorf("requests: %v", n)
		}
	})
}

// TestHeartbeatAsksLittle: a service that has just answered is not asked for
// its health. The metadata service is asked only if that is wanted, and then
// not for everything: user data can have 64 KiB.
func TestHeartbeatAsksLittle(t *testing.T) {
	t.Parallel()
	testKey()
	synctest.Test(t, func(t *testing.T) {
		f := newHost(t)
		f.vm, f.etag = vmWith(ticks0+1, "FastTrack", ""), `"e"`
		c := f.client(host.Root(t.TempDir()), nil)
		mustGS(t, c, "")
		f.clear()
		if err := c.Heartbeat(t.Context()); err != nil {
			t.Error(err)
		}
		if got := f.requests(""); len(got) != 1 || !strings.Contains(got[0], "/HealthService") || !strings.Contains(f.telemetry[0], `"GuestAgentPluginHeartbeat","IsHealthy":true`) {
			t.Errorf("requests %v, sent %s", got, f.telemetry)
		}
		time.Sleep(time.Minute) // nobody has asked the host for anything
		f.clear()
		f.set(func() { f.fail["/health"] = 503 })
		for range 6 {
			if err := c.Heartbeat(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
		}
		if n := len(f.requests("/health")); n == 0 || !strings.Contains(f.telemetry[len(f.telemetry)-1], `"GuestAgentPluginHeartbeat","IsHealthy":false`) {
			t.Errorf("asked %d times, sent %s", n, f.telemetry[len(f.telemetry)-1])
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newHost(t)
		c := f.client(host.Root(t.TempDir()), func(o *Options) { o.IMDSHeartbeat = true })
		mustGS(t, c, "")
		f.clear()
		if err := c.Heartbeat(t.Context()); err != nil {
			t.Error(err)
		}
		if got := f.requests("/metadata/"); len(got) != 1 || !strings.Contains(got[0], "/metadata/instance/network?") || !strings.Contains(f.telemetry[0], `"InstanceMetadataHeartbeat"`) {
			t.Errorf("requests %v, sent %s", got, f.telemetry)
		}
	})
}

func TestHostOnlyNeverLeaves(t *testing.T) {
	t.Parallel()
	testKey()
	synctest.Test(t, func(t *testing.T) {
		f := newHost(t)
		c := f.client(host.Root(t.TempDir()), func(o *Options) { o.Order = transfer.HostOnly })
		mustGS(t, c, "")
		f.set(func() { f.fail["/status"], f.fail["/extensionArtifact"] = 500, 500 })
		_, _ = c.ReportStatus(t.Context(), protocol.Status{})
		_, _ = c.Manifest(t.Context(), []secret.URL{secret.NewURL("http://a.example/m")})
		if n := f.requests(".example "); len(n) != 0 {
			t.Errorf("requests: %v", n)
		}
	})
}

func TestHistoryHoldsNoSecretsAndIsBounded(t *testing.T) {
	t.Parallel()
	testKey()
	synctest.Test(t, func(t *testing.T) {
		f := newHost(t)
		root := host.Root(t.TempDir())
		f.access = `<RemoteAccess><Users><User><Name>jit</Name><Password>Y2FuYXJ5</Password><Expiration>x</Expiration></User></Users></RemoteAccess>`
		f.vm = vmWith(ticks0+1, "FastTrack", `{"name":"A","version":"1","state":"enabled","settings":[{"protectedSettings":"canary","protectedSettingsCertThumbprint":"T"}]}`)
		c := f.client(root, nil)
		for i := range 70 {
			f.set(func() {
				f.etag = fmt.Sprintf("%d", i)
				f.inc = fmt.Sprint(i)
				f.ext = extWith(ticks0+int64(i), `<Plugin name="A" version="1" state="enabled"/>`, `<Plugin name="A" version="1"><RuntimeSettings seqNo="1">{"runtimeSettings":[{"handlerSettings":{"protectedSettings":"canary","protectedSettingsCertThumbprint":"T"}}]}</RuntimeSettings></Plugin>`)
			})
			if _, err := c.GoalState(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second)
		}
		dir := root.Path("/var/lib/waagent/history")
		list, err := os.ReadDir(dir)
		if err != nil || len(list) != historyEntries {
			t.Errorf("%d entries, %v", len(list), err)
		}
		files := 0
		_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, _ error) error {
			if d.IsDir() {
				return nil
			}
			files++
			b, err := os.ReadFile(p)
			if err != nil || strings.Contains(string(b), "canary") || strings.Contains(string(b), "Y2FuYXJ5") {
				t.Errorf("%s: %v\n%s", p, err, b)
			}
			if fi, _ := d.Info(); fi.Mode().Perm() != 0o600 {
				t.Errorf("%s: mode %v", p, fi.Mode())
			}
			return nil
		})
		if files < 5*historyEntries {
			t.Errorf("%d files", files)
		}
	})
}

func TestRolesOfTheChannelsSwap(t *testing.T) {
	t.Parallel()
	bubble(t, func(f *fakeHost) {
		f.blobs["https://a.example/m"], f.blobs["http://a.example/m"] = []byte("<PluginVersionManifest/>"), []byte("<PluginVersionManifest/>")
	}, func(t *testing.T, f *fakeHost, c *Client) {
		mustGS(t, c, "")
		f.set(func() {
			f.fail["/extensionArtifact"] = 404
			f.blobs["https://a.example/m"] = []byte("<PluginVersionManifest/>")
		})
		u := []secret.URL{secret.NewURL("http://a.example/m")}
		if _, err := c.Manifest(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		f.clear()
		if _, err := c.Manifest(t.Context(), u); err != nil || len(f.requests("extensionArtifact")) != 0 {
			t.Errorf("the fallback did not become the first: %v, %v", err, f.requests(""))
		}
	})
}

// TestBrokenDocumentsMakeNoHotLoop: documents that arrive but can't be used
// are not fetched at every poll, and the rest goes on working.
func TestBrokenDocumentsMakeNoHotLoop(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(f *fakeHost){
		"text":     func(f *fakeHost) { f.ext = "<Extensions><Plugins>" },
		"error":    func(f *fakeHost) { f.fail["extensionsConfig"] = 503 },
		"noop":     func(f *fakeHost) { f.noop = 1 << 30 },
		"notfound": func(f *fakeHost) { f.fail["extensionsConfig"] = 404 },
	} {
		bubble(t, nil, func(t *testing.T, f *fakeHost, c *Client) {
			gs := mustGS(t, c, "")
			good := f.ext
			f.set(func() { f.inc = "2"; breakIt(f) })
			f.clear()
			lines := 0
			for range 600 {
				time.Sleep(6 * time.Second)
				_, err := c.GoalState(t.Context(), gs.Key())
				if err == nil || errors.Is(err, protocol.ErrNotModified) {
					t.Fatalf("%s: %v", name, err)
				}
				if protocol.Loud(err) {
					lines++
				}
			}
			if _, err := c.ReportStatus(t.Context(), protocol.Status{}); err != nil {
				t.Errorf("%s: status: %v", name, err)
			}
			what, most := "extensionsConfig", 20
			if name == "noop" {
				what, most = "comp=goalstate", 6*20 // protocol/SPEC.md §4.2
			}
			if n := len(f.requests(what)); n > most || n < 10 {
				t.Errorf("%s: asked %d times in an hour", name, n)
			}
			if lines > 7 {
				t.Errorf("%s: %d lines", name, lines)
			}
			f.set(func() { f.inc, f.ext, f.noop = "3", good, 0; clear(f.fail) })
			start := time.Now()
			for {
				if gs2, err := c.GoalState(t.Context(), gs.Key()); err == nil && gs2.Incarnation == "3" {
					break
				}
				time.Sleep(time.Second)
			}
			if late := time.Since(start); name != "noop" && late > time.Minute || late > 9*time.Minute {
				t.Errorf("%s: healed after %v", name, late)
			}
		})
	}
}

func TestVMSettingsCanStandAlone(t *testing.T) {
	t.Parallel()
	bubble(t, func(f *fakeHost) {
		f.ext, f.vm, f.etag = "broken", vmWith(ticks0, "FastTrack", `{"name":"A","version":"1","state":"enabled"}`), "1"
	}, func(t *testing.T, f *fakeHost, c *Client) {
		gs := mustGS(t, c, "")
		if gs.Source != protocol.FastTrack || len(gs.Handlers) != 1 {
			t.Errorf("goal state: %+v", gs)
		}
		if _, err := c.ReportStatus(t.Context(), protocol.Status{}); err != nil {
			t.Error(err)
		}
	})
}

package chaos

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/fabric/pki"
)

// Expected result of an extension.
const (
	succeeds = "Succeeded"
	fails    = "Failed"
	either   = "either" // depends on the goal states that the agent has seen
)

// A want is an extension as it was last requested.
type want struct {
	x       fabric.Extension
	version string // exact one, as the control plane chooses it
	multi   bool
	outcome string
	// doubtful: a dependency was expected to fail for a while. The extension
	// may have been tried while it did not, and otherwise it stays failed.
	doubtful bool
	says     string // part of the status message, if it succeeds or the handler reports
	secret   string // in the protected settings
}

// A kind is a sample handler and the variants in which it is requested.
type kind struct {
	names    []string // of the resources; several for multi-config
	handler  string
	versions map[string]string // versions as requested: as chosen
	draw     func(d *dice, w *want)
}

// dice are the only source of randomness.
type dice struct{ *rand.Rand }

func newDice(seed uint64) *dice {
	return &dice{rand.New(rand.NewPCG(seed, 0xc4a05))} //nolint:gosec // repeatable test data from a seed
}

func (d *dice) chance(percent int) bool { return d.IntN(100) < percent }

func pick[T any](d *dice, list []T) T { return list[d.IntN(len(list))] }

func (d *dice) millis(most int) time.Duration {
	return time.Duration(d.IntN(most+1)) * time.Millisecond
}

const publisher = "Azguest.Samples."

// kinds are in an order in which each may depend on earlier ones.
func kinds() []kind {
	one := map[string]string{"1.0": "1.0.0"}
	plain := func(settings map[string]any, says string) func(*dice, *want) {
		return func(d *dice, w *want) {
			w.x.Settings, w.says = map[string]any{"round": d.IntN(1 << 30)}, says
			maps.Copy(w.x.Settings.(map[string]any), settings)
		}
	}
	greet := func(d *dice, w *want, ending, failure string) {
		greeting := fmt.Sprintf("g-%08x", d.Uint32())
		settings := map[string]any{"greeting": greeting}
		w.says = greeting + ending
		if d.chance(15) {
			settings["exitCode"] = 7
			w.outcome, w.says = fails, failure
		}
		w.x.Settings = settings
	}
	return []kind{
		{[]string{"hello"}, "Hello", map[string]string{"1.0": "1.0.1", "1.1": "1.1.0", "2.0": "2.0.0"}, func(d *dice, w *want) {
			greet(d, w, " from ", "told to fail with 7")
			w.protect(d)
		}},
		{[]string{"slow"}, "Slow", one, func(d *dice, w *want) {
			n := d.IntN(3)
			w.x.Settings = map[string]any{"seconds": n, "round": d.IntN(1 << 30)}
			w.says = fmt.Sprintf("slept %d seconds", n)
		}},
		{[]string{"nested"}, "Nested", one, func(d *dice, w *want) {
			greet(d, w, " from 1.0.0; ", "told to fail with 7")
			w.protect(d)
		}},
		{[]string{"background"}, "Background", one, plain(nil, "done in the background")},
		{[]string{"multi-a", "multi-b", "multi-c"}, "Multi", map[string]string{"1.0": "1.0.0", "1.1": "1.1.0"}, func(d *dice, w *want) {
			w.multi = true
			greet(d, w, " from instance "+w.x.Name, w.x.Name+" was told to fail")
		}},
		{[]string{"crash"}, "Crash", one, func(d *dice, w *want) {
			when := pick(d, []string{"enable", "disable", "uninstall", "never"})
			settings := map[string]any{"when": when, "round": d.IntN(1 << 30)}
			w.says = "did not crash"
			if when == "enable" {
				w.outcome, w.says = fails, ""
				if d.chance(50) {
					settings["code"] = "signal"
				}
			}
			w.x.Settings = settings
		}},
		{[]string{"crashinstall"}, "CrashInstall", one, func(d *dice, w *want) {
			plain(nil, "")(d, w)
			w.outcome = fails
		}},
		{[]string{"crashupdate"}, "CrashUpdate", map[string]string{"1.0": "1.0.0", "1.1": "1.1.0"}, func(d *dice, w *want) {
			plain(map[string]any{"when": "never"}, "")(d, w)
			w.outcome = either
		}},
		{[]string{"noisy"}, "Noisy", one, plain(map[string]any{"kilobytes": 48}, "zzzzzzzz")},
		{[]string{"heartbeat"}, "Heartbeat", one, plain(nil, "heartbeat written")},
		{[]string{"events"}, "Events", one, plain(nil, "event written")},
		{[]string{"nosettings"}, "NoSettings", one, func(*dice, *want) {}},
	}
}

// protect adds protected settings to an extension, or expects the message that
// it has none.
func (w *want) protect(d *dice) {
	if !d.chance(60) {
		if w.outcome == succeeds {
			w.says += "no protected settings"
			if w.x.Handler == publisher+"Hello" {
				w.says = strings.TrimSuffix(w.says, "no protected settings") // the message has the version before it
			}
		}
		return
	}
	w.secret = fmt.Sprintf("canary-%016x", d.Uint64())
	w.x.Protected = map[string]any{"secret": w.secret}
}

// A step is one event. Its text is logged.
type step struct {
	text  string
	pause time.Duration // afterwards
	do    func(*life) error
	// spoils: extensions may fail because of this step, and have to be put
	// again.
	spoils bool
}

// A script draws steps and keeps track of the expected result.
type script struct {
	*dice
	kinds []kind
	wants map[string]*want
	fast  bool
	pages bool // the status blob is a page blob throughout the run
	n     int  // steps so far
}

func newScript(seed uint64) *script {
	s := &script{dice: newDice(seed), kinds: kinds(), wants: map[string]*want{}}
	s.pages = s.chance(30)
	return s
}

func (s *script) step(spoils bool, do func(*life) error, format string, args ...any) step {
	return step{text: fmt.Sprintf(format, args...), do: do, spoils: spoils}
}

// change draws a change of the goal state.
func (s *script) change() step {
	if names := s.names(); len(names) > 0 && s.chance(25) {
		return s.remove(pick(s.dice, names))
	}
	k := pick(s.dice, s.kinds)
	name := pick(s.dice, k.names)
	asked := pick(s.dice, slices.Sorted(maps.Keys(k.versions)))
	w := &want{x: fabric.Extension{Name: name, Handler: publisher + k.handler, Version: asked}, version: k.versions[asked], outcome: succeeds}
	old := s.wants[name]
	what := "put"
	if old != nil && old.version != w.version && s.chance(30) {
		// Only the version changes.
		copied := *old
		copied.x.Version, copied.version, copied.doubtful = asked, w.version, false
		w, what = &copied, "move"
	} else {
		k.draw(s.dice, w)
		w.x.After = s.after(name)
	}
	for _, other := range s.wants {
		if other.x.Handler == w.x.Handler {
			other.version, other.x.Version = w.version, w.x.Version // all extensions of a handler have one version
		}
	}
	s.wants[name] = w
	s.doubt()
	x := w.x
	return s.step(false, func(l *life) error { return l.VM.Put(x) }, "%s %s %s %v after %v, to end as %s", what, name, w.version, w.x.Settings, w.x.After, w.outcome)
}

// after draws a dependency of an extension: one that is earlier in the table,
// so that there are no cycles.
func (s *script) after(name string) []string {
	if !s.chance(25) {
		return nil
	}
	var before []string
	for _, k := range s.kinds {
		if slices.Contains(k.names, name) {
			break
		}
		for _, n := range k.names {
			if s.wants[n] != nil {
				before = append(before, n)
			}
		}
	}
	if len(before) == 0 {
		return nil
	}
	return []string{pick(s.dice, before)}
}

// doubt marks extensions with a dependency that may fail.
func (s *script) doubt() {
	for _, name := range s.names() {
		w := s.wants[name]
		w.doubtful = w.doubtful || w.outcome == succeeds && s.outcome(name) != succeeds
	}
}

func (s *script) remove(name string) step {
	delete(s.wants, name)
	return s.step(false, func(l *life) error { return l.VM.DeleteExtension(name) }, "delete %s", name)
}

func (s *script) names() []string { return slices.Sorted(maps.Keys(s.wants)) }

// outcome is the expected result of an extension, including its dependencies:
// whether an extension is tried whose dependency may fail depends on the
// earlier state of that dependency.
func (s *script) outcome(name string) string {
	w := s.wants[name]
	if w == nil {
		return ""
	}
	if w.doubtful || s.blocked(name) {
		return either
	}
	return w.outcome
}

// blocked reports whether a dependency of the extension may fail.
func (s *script) blocked(name string) bool {
	return slices.ContainsFunc(s.wants[name].x.After, func(a string) bool {
		return s.wants[a] != nil && s.outcome(a) != succeeds
	})
}

// platform draws an event of a platform without faults.
func (s *script) platform() step {
	set := func(text string, change func(*fabric.Config)) step {
		return s.step(false, func(l *life) error { l.VM.Configure(change); return nil }, "%s", text)
	}
	flag := s.chance(50)
	switch s.IntN(12) {
	case 0:
		flag = flag && s.fast
		return s.step(false, func(l *life) error { l.VM.Announce(flag); return nil }, "announce the same again, by FastTrack: %v", flag)
	case 1:
		return s.step(false, func(l *life) error { return l.VM.RotateCertificate() }, "rotate the tenant certificate")
	case 2:
		return s.step(false, func(l *life) error { return l.VM.Hibernate() }, "hibernate and resume elsewhere")
	case 3:
		return s.step(false, func(l *life) error { l.VM.Migrate(flag); return nil }, "migrate, quietly: %v", flag)
	case 4:
		return s.step(false, func(l *life) error { _, err := l.VM.AddCertificate("", flag); return err }, "one more certificate, elliptic: %v", flag)
	case 5:
		code := pick(s.dice, []int{400, 410})
		return set(fmt.Sprintf("outdated containers are answered with %d", code), func(c *fabric.Config) { c.StaleCode = code })
	case 6:
		return set(fmt.Sprintf("FIPS certificates: %v", flag), func(c *fabric.Config) { c.Certificates.FIPS = flag })
	case 7:
		return set(fmt.Sprintf("certificates only by 3DES: %v", flag), func(c *fabric.Config) { c.Certificates.OnlyDES = flag })
	case 8:
		return set(fmt.Sprintf("settings encrypted with AES: %v", flag), func(c *fabric.Config) {
			c.SettingsCipher = map[bool]string{true: pki.CipherAES256, false: pki.Cipher3DES}[flag]
		})
	case 9:
		return set(fmt.Sprintf("keys in mixed case: %v, old shapes: %v", flag, !flag), func(c *fabric.Config) { c.MixedCaseKeys, c.OldShape = flag, !flag })
	case 10:
		return set(fmt.Sprintf("on hold: %v", flag), func(c *fabric.Config) { c.OnHold = flag })
	default:
		s.fast = flag
		return set(fmt.Sprintf("FastTrack: %v", flag), func(c *fabric.Config) { c.FastTrack = flag })
	}
}

// Endpoints that can fail. Extensions need the package kinds: if those fail for
// long, an extension fails, and has to be put again.
var (
	endpoints = []fabric.Kind{
		fabric.Versions, fabric.GoalState, fabric.HostingEnvironment, fabric.SharedConfig, fabric.ExtensionsConfig, fabric.Certificates,
		fabric.RemoteAccess, fabric.Health, fabric.RoleProperties, fabric.Telemetry, fabric.HealthService, fabric.PluginVersions,
		fabric.PluginHealth, fabric.VMSettings, fabric.PluginStatus, fabric.AgentLog, fabric.BlobPut, fabric.Metadata, "hostga.*", "*",
	}
	packages = []fabric.Kind{fabric.Artifact, fabric.BlobGet}
	codes    = []int{400, 401, 403, 404, 408, 409, 410, 412, 429, 500, 501, 502, 503, 504}
)

// fault draws a fault of the platform.
func (s *script) fault() step {
	f := fabric.Fault{Kind: pick(s.dice, endpoints), Seed: s.Uint64()}
	spoils := f.Kind == "*"
	if s.chance(25) {
		f.Kind, spoils = pick(s.dice, packages), true
	}
	switch s.IntN(4) {
	case 0:
		f.Times = 1 + s.IntN(6)
	case 1:
		f.For = fabric.Duration(200*time.Millisecond + s.millis(4000))
	case 2:
		f.Probability, f.For = 0.2+0.6*s.Float64(), fabric.Duration(s.millis(8000)+time.Second)
	case 3:
		f.Skip, f.Times = s.IntN(3), 1+s.IntN(3)
	}
	if s.chance(20) {
		f.Delay = fabric.Duration(s.millis(2500))
	}
	switch s.IntN(9) {
	case 0, 1, 2:
		f.Status = pick(s.dice, codes)
		f.Apply = s.chance(30)
		if f.Status == 429 || f.Status == 503 {
			f.Set = map[string]string{"Retry-After": pick(s.dice, []string{"1", "2", "soon"})}
		}
	case 3:
		f.Reset, f.Apply = true, s.chance(30)
	case 4:
		n := s.IntN(400)
		f.Truncate = &n
	case 5:
		body := pick(s.dice, []string{"", "<html><body>Service Unavailable</body></html>", "{", "<GoalState>", "\x00\x00\x00\x00", "[]", strings.Repeat("A", 70000)})
		f.Body, f.ContentType = &body, pick(s.dice, []string{"", "text/html", "application/octet-stream"})
	case 6:
		f.ContentType = pick(s.dice, []string{"text/html", "application/json", "text/plain; charset=utf-16"})
	case 7:
		f.Rate = 200 + s.IntN(20000)
	case 8:
		f.Status, f.Set = 302, map[string]string{"Location": "http://192.0.2.99/elsewhere"}
	}
	text := fmt.Sprintf("fault on %s: %s, %d times, skip %d, for %v, p=%.2f", f.Kind, (&f).String(), f.Times, f.Skip, time.Duration(f.For), f.Probability)
	return s.step(spoils, func(l *life) error { _, err := l.Fabric.Fail(f); return err }, "%s", text)
}

// killHandler draws the kill of a process that belongs to an extension.
func (s *script) killHandler() step {
	n := s.IntN(1000)
	what := pick(s.dice, []string{"handler", "supervisor"})
	return s.step(true, func(l *life) error { return l.killOne(what, n) }, "kill -9 a %s process (number %d)", what, n)
}

// killAgent draws the end of the agent and its restart.
func (s *script) killAgent() step {
	down := s.millis(700)
	switch s.IntN(6) {
	case 0:
		return s.step(false, func(l *life) error { return l.reboot(down) }, "reboot, %v down", down)
	case 1, 2:
		return s.step(false, func(l *life) error { return l.restart(true, down) }, "SIGTERM the agent, start it after %v", down)
	default:
		return s.step(false, func(l *life) error { return l.restart(false, down) }, "kill -9 the agent, start it after %v", down)
	}
}

// next draws a step. weights are percentages of changes of goal states, events
// of the platform, faults, and kills of handlers; the remaining steps end the
// agent.
func (s *script) next(weights [4]int) step {
	s.n++
	roll := s.IntN(100)
	var st step
	for i, draw := range []func() step{s.change, s.platform, s.fault, s.killHandler, s.killAgent} {
		if i == len(weights) || roll < weights[i] {
			st = draw()
			break
		}
		roll -= weights[i]
	}
	switch s.IntN(4) {
	case 0: // at once
	case 1, 2:
		st.pause = s.millis(600)
	case 3:
		st.pause = s.millis(2000)
	}
	return st
}

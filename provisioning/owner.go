package provisioning

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.yaml.in/yaml/v3"

	"github.com/azguest/azguest/agent/host"
)

// Owner is the program that provisions this machine.
type Owner string

const (
	OwnerSelf      Owner = "azguest"
	OwnerCloudInit Owner = "cloud-init"
	OwnerAzureInit Owner = "azure-init"
	OwnerIgnition  Owner = "ignition" // with afterburn, which reports Ready
	OwnerNobody    Owner = "nobody"   // switched off by Provisioning.Agent=disabled
)

// A Finding is who provisions, and the reason for that conclusion.
type Finding struct {
	Owner   Owner
	Because string
}

// ReportsReady reports whether the owner itself reports Ready to the platform.
// Exactly one program may do so. If the owner does not, the agent does, unless
// provisioning is switched off altogether.
func (f Finding) ReportsReady() bool {
	return f.Owner == OwnerCloudInit || f.Owner == OwnerAzureInit || f.Owner == OwnerIgnition
}

// FindOwner decides who provisions, from the configuration
// (Provisioning.Agent) and from files: those that generators leave in /run,
// links that enable units, the kernel command line. It starts no process and
// waits for nothing, so it does not delay the boot
// (provisioning/SPEC.md §3.2).
func (m *Machine) FindOwner(agent string) Finding {
	r := m.Root
	switch strings.ToLower(strings.TrimSpace(agent)) {
	case "waagent", "azguest":
		return Finding{OwnerSelf, "Provisioning.Agent=" + agent}
	case "cloud-init":
		return Finding{OwnerCloudInit, "Provisioning.Agent=" + agent}
	case "azure-init":
		return Finding{OwnerAzureInit, "Provisioning.Agent=" + agent}
	case "disabled":
		return Finding{OwnerNobody, "Provisioning.Agent=" + agent}
	}
	if because, yes := cloudInit(r); yes {
		return Finding{OwnerCloudInit, because}
	}
	if because, yes := azureInit(r, m.VM.ID); yes {
		return Finding{OwnerAzureInit, because}
	}
	if because, yes := m.ignition(); yes {
		return Finding{OwnerIgnition, because}
	}
	return Finding{OwnerSelf, "no other provisioning agent is active"}
}

func cmdline(r host.Root) []string {
	b, err := r.ReadFile("/proc/cmdline")
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// cloudInit reports whether cloud-init provisions. Its generator decides that
// at every boot, whether or not the unit is enabled
// (provisioning/SPEC.md §3.3).
func cloudInit(r host.Root) (string, bool) {
	if Which(r, "cloud-init") == "" && !r.Exists("/usr/lib/cloud-init") && !r.Exists("/run/cloud-init/enabled") {
		return "", false
	}
	if cloudInitOff(r) {
		return "", false
	}
	because := ""
	switch {
	case r.Exists("/run/cloud-init/enabled"):
		because = "/run/cloud-init/enabled"
	case r.Exists("/run/systemd/system"):
		// The generator runs before every unit. If systemd is up and the file
		// does not exist, the cloud-init of this image has no generator, and
		// the unit's link decides.
		if because = unitLink(r, "cloud-init-local.service"); because == "" {
			return "", false
		}
	default:
		if because = openRC(r, "cloud-init-local"); because == "" {
			return "", false
		}
	}
	list, file, known := datasources(r)
	if known && !slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, "Azure") }) {
		return "", false // it runs, but its datasource_list does not contain this platform
	}
	if file != "" {
		because += ", " + file
	}
	return because, true
}

// cloudInitOff reports whether a switch keeps cloud-init from running. The
// generator follows the last word of the kernel command line, then
// cloud-init.enabled, then cloud-init.disabled. Where that is enabled, another
// switch is followed only by units that have it as a condition, as those of
// newer versions do.
func cloudInitOff(r host.Root) bool {
	const file = "/etc/cloud/cloud-init.disabled"
	const word = "cloud-init=disabled"
	words := slices.DeleteFunc(cmdline(r), func(s string) bool { return s != word && s != "cloud-init=enabled" })
	byFile, byWord := r.Exists(file), slices.Contains(words, word)
	switch {
	case r.Exists("/run/cloud-init/disabled"):
		return true
	case !byFile && !byWord:
		return false
	case !r.Exists("/run/cloud-init/enabled"):
		return true
	case len(words) > 0 && words[len(words)-1] == word || len(words) == 0 && !r.Exists("/etc/cloud/cloud-init.enabled"):
		return true
	}
	for _, dir := range []string{"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		if unit, err := r.ReadFile(path.Join(dir, "cloud-init-local.service")); err == nil {
			return byFile && bytes.Contains(unit, []byte("\nConditionPathExists=!"+file)) || byWord && bytes.Contains(unit, []byte("\nConditionKernelCommandLine=!"+word))
		}
	}
	return false
}

// datasources returns the list that cloud-init will use and the file that sets
// it: what ds-identify found, else what the image configures. known is false if
// no file sets it, or if the first one that might is not understood; cloud-init
// then counts as configured for this platform, because two programs must not
// provision one machine.
func datasources(r host.Root) (list []string, file string, known bool) {
	files := []string{"/run/cloud-init/cloud.cfg"}
	more, err := r.Glob("/etc/cloud/cloud.cfg.d/*.cfg")
	if err == nil {
		slices.Sort(more)
		slices.Reverse(more)
		files = append(files, more...)
	}
	for _, f := range append(files, "/etc/cloud/cloud.cfg") {
		b, err := r.ReadBounded(f, maxCloudConfig)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			var set bool
			if list, set, err = datasourceList(b); err == nil && !set {
				continue
			}
		}
		return list, f, err == nil
	}
	return nil, "", false
}

// maxCloudConfig is the size limit of a configuration file of cloud-init.
const maxCloudConfig = 1 << 20

// datasourceList returns the value of the top-level key datasource_list of a
// YAML document, and whether it has one. ds-identify indents its result below
// "di_report:" where cloud-init must not use it. What cloud-init would refuse
// as a whole, such as a file of two documents, is an error.
func datasourceList(doc []byte) (list []string, set bool, err error) {
	var top struct {
		List any `yaml:"datasource_list"`
	}
	in := yaml.NewDecoder(bytes.NewReader(doc))
	if err := in.Decode(&top); errors.Is(err, io.EOF) {
		return nil, false, nil // empty, or only comments
	} else if err != nil {
		return nil, false, fmt.Errorf("read YAML: %w", err)
	}
	if err := in.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, false, errors.Join(errors.New("read YAML: more than one document"), err)
	}
	switch v := top.List.(type) {
	case nil:
		return nil, false, nil
	case string:
		for item := range strings.SplitSeq(v, ",") {
			list = append(list, strings.TrimSpace(item))
		}
	case []any:
		for _, item := range v {
			list = append(list, fmt.Sprint(item))
		}
	default:
		return nil, true, errors.New("read datasource_list: not a list")
	}
	return list, true, nil
}

// unitLink returns the link that makes systemd start a unit; empty if there is
// none.
func unitLink(r host.Root, unit string) string {
	for _, dir := range []string{"/etc/systemd/system", "/run/systemd/generator", "/run/systemd/generator.early", "/run/systemd/generator.late", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		if dir == "/etc/systemd/system" && masked(r, unit) {
			return ""
		}
		for _, kind := range []string{"wants", "requires"} {
			if names, err := r.Glob(dir + "/*." + kind + "/" + unit); err == nil && len(names) > 0 {
				return names[0]
			}
		}
	}
	return ""
}

func masked(r host.Root, unit string) bool {
	for _, dir := range []string{"/etc/systemd/system/", "/run/systemd/system/"} {
		if target, err := r.Readlink(dir + unit); err == nil && target == "/dev/null" {
			return true
		}
	}
	return false
}

func openRC(r host.Root, service string) string {
	if names, err := r.Glob("/etc/runlevels/*/" + service); err == nil && len(names) > 0 {
		return names[0]
	}
	return ""
}

func azureInit(r host.Root, vmID string) (string, bool) {
	for _, id := range []string{NormalID(vmID), SwapID(vmID)} {
		if marker := "/var/lib/azure-init/" + id + ".provisioned"; id != "" && r.Exists(marker) {
			return marker, true
		}
	}
	link := unitLink(r, "azure-init.service")
	return link, link != ""
}

// ignition reports whether Ignition with Afterburn provisions: Ignition
// configures the machine in the initramfs, and Afterburn reports Ready.
// Ignition alone (Flatcar) leaves accounts and Ready to the agent.
func (m *Machine) ignition() (string, bool) {
	r := m.Root
	ran := m.ignitionResult() || slices.ContainsFunc(cmdline(r), func(s string) bool {
		return s == "ignition.platform.id=azure" || s == "ignition.platform.id=azurestack"
	})
	if !ran {
		return "", false
	}
	link := unitLink(r, "afterburn-checkin.service")
	return link, link != ""
}

// ignitionResult reports whether the result that Ignition has left is about this
// VM: it names the boot in which it ran, and in later boots the marker says that
// this VM was provisioned. That of an image which was captured without
// generalize is about another VM. One that names no boot counts: two programs
// must not provision one machine.
func (m *Machine) ignitionResult() bool {
	const name = "/etc/.ignition-result.json"
	if !m.Root.Exists(name) {
		return false
	}
	var result struct {
		Boot string `json:"provisioningBootID"`
	}
	if !readJSON(m.Root, name, &result) || result.Boot == "" || m.Root.BootID() == "" {
		return true
	}
	standing, err := m.Stand()
	return NormalID(result.Boot) == NormalID(m.Root.BootID()) || err != nil || standing == Provisioned || standing == Adopted
}

// An Outcome is the result of provisioning by another program.
type Outcome struct {
	Done   bool
	Failed bool     // it ended, or crashed, without doing its work
	Errors []string // errors that it reported; with Done they did not stop it
}

const (
	// pollEvery is how often files are checked in addition to inotify, which
	// can miss a directory that is replaced.
	pollEvery = 5 * time.Second
	// askEvery is how often the service manager is asked whether the owner has
	// crashed, which leaves no file behind.
	askEvery = 15 * time.Second
)

// WaitOwner waits until the owner has finished, by watching the files that it
// leaves behind. The context bounds the wait. If it ends, the error has
// CodeOwner and must not be reported to the platform as a failure: another
// program may have reported Ready (provisioning/SPEC.md §3.6).
func (m *Machine) WaitOwner(ctx context.Context, f Finding) (Outcome, error) {
	var out Outcome
	r, vmID := m.Root, m.VM.ID
	asked := time.Now()
	crashed := func(units ...string) bool {
		if time.Since(asked) < askEvery {
			return false
		}
		asked = time.Now()
		if bad := m.failedUnits(ctx, units); len(bad) > 0 {
			out = Outcome{Failed: true, Errors: bad}
			return true
		}
		return false
	}
	switch f.Owner {
	case OwnerCloudInit:
		return m.WaitCloudInit(ctx)
	case OwnerAzureInit:
		names := []string{"/var/lib/azure-init/" + NormalID(vmID) + ".provisioned", "/var/lib/azure-init/" + SwapID(vmID) + ".provisioned"}
		err := Watch(ctx, r, names, func() bool {
			out.Done = r.Exists(names[0]) || r.Exists(names[1])
			return out.Done || crashed("azure-init.service")
		})
		if err != nil {
			return out, fail(CodeOwner, "azure-init did not finish", err)
		}
	case OwnerIgnition, OwnerNobody, OwnerSelf:
		// Ignition has finished in the initramfs, before the agent started.
		// The other two are not waited for.
		out.Done = true
	}
	return out, nil
}

// failedUnits asks systemd which of the units have failed.
func (m *Machine) failedUnits(ctx context.Context, units []string) []string {
	if !m.Root.Exists("/run/systemd/system") {
		return nil
	}
	res, err := m.Run.Run(ctx, host.Cmd{Name: "systemctl", Args: append([]string{"show", "--property=Id,ActiveState,Result"}, units...), Timeout: 10 * time.Second})
	if err != nil {
		return nil // systemd did not answer
	}
	var bad []string
	for block := range strings.SplitSeq(string(res.Stdout), "\n\n") {
		have := map[string]string{}
		for line := range strings.Lines(block) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			have[k] = v
		}
		if have["ActiveState"] == "failed" {
			bad = append(bad, have["Id"]+": "+have["Result"])
		}
	}
	return bad
}

// A Stage is a point in cloud-init's run that extensions may wait for.
type Stage string

const (
	StageInit   Stage = "init"   // host name, users, keys
	StageConfig Stage = "config" // packages and such
	StageFinal  Stage = "final"  // user scripts; the last stage
)

// cloudUnits lists the units of cloud-init, in all its versions, by the stage
// they run.
var cloudUnits = map[Stage][]string{
	StageInit:   {"cloud-init-main.service", "cloud-init.service", "cloud-init-network.service"},
	StageConfig: {"cloud-init-main.service", "cloud-config.service"},
	StageFinal:  {"cloud-init-main.service", "cloud-final.service"},
}

// WaitStage waits until cloud-init has passed a stage (Extensions.After), or
// will never do so; the Outcome then has Failed and the reason. A crash is
// recognized when a later stage has begun, or when the unit of the stage has
// failed.
func (m *Machine) WaitStage(ctx context.Context, s Stage) (Outcome, error) {
	var out Outcome
	asked := time.Now()
	err := Watch(ctx, m.Root, []string{"/run/cloud-init/result.json", "/run/cloud-init/status.json"}, func() bool {
		st, ok := CloudInit(m.Root)
		switch {
		case ok && st.Passed(s):
			out = Outcome{Done: true, Errors: st.Errors}
		case ok && st.Crashed(s):
			out = Outcome{Failed: true, Errors: append([]string{"the " + string(s) + " stage crashed"}, st.Errors...)}
		case time.Since(asked) >= askEvery:
			asked = time.Now()
			if bad := m.failedUnits(ctx, cloudUnits[s]); len(bad) > 0 {
				out = Outcome{Failed: true, Errors: append(bad, st.Errors...)}
			}
		}
		return out.Done || out.Failed
	})
	if err != nil {
		return out, fail(CodeOwner, "cloud-init did not finish its "+string(s)+" stage", err)
	}
	return out, nil
}

// WaitCloudInit waits until cloud-init has set the machine up, which is the
// end of its init stage. If that stage failed, it waits for the final stage
// too, because two programs must not provision at the same time.
//
// Failed means that the account of this platform's order does not exist,
// whatever else cloud-init has done.
func (m *Machine) WaitCloudInit(ctx context.Context) (Outcome, error) {
	out, err := m.WaitStage(ctx, StageInit)
	if err != nil {
		return out, err
	}
	if st, ok := CloudInit(m.Root); out.Done && ok && !st.Empty() {
		return out, nil
	}
	if out.Done {
		out = Outcome{Failed: true, Errors: append([]string{"it found no provisioning data for this VM"}, out.Errors...)}
	}
	if _, err := m.WaitStage(ctx, StageFinal); err != nil {
		return out, err
	}
	return out, nil
}

// Watch calls check immediately, whenever one of the files may have changed,
// and every few seconds, until check returns true or the context ends. The
// files and their directories need not exist yet.
func Watch(ctx context.Context, r host.Root, names []string, check func() bool) error {
	if check() {
		return nil
	}
	w, err := fsnotify.NewWatcher()
	var events chan fsnotify.Event
	var troubles chan error
	if err == nil {
		defer func() { _ = w.Close() }()
		events, troubles = w.Events, w.Errors
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if w != nil {
			for _, n := range names {
				watchNearest(r, w, path.Dir(n))
			}
		}
		// Something may have changed between the first check and the watch.
		if check() {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-events:
		case <-troubles: //nolint:errcheck // the ticker finds changes without notifications
		case <-tick.C:
		}
	}
}

// watchNearest watches a directory, or its nearest parent that exists.
func watchNearest(r host.Root, w *fsnotify.Watcher, dir string) {
	for {
		err := w.Add(r.Path(dir))
		if err == nil || !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return
		}
		dir = path.Dir(dir)
	}
}

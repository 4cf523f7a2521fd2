package fabric

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A goalState is a snapshot of one announcement: the sub-documents of an
// incarnation do not change until they are no longer served.
type goalState struct {
	ordinal               int
	incarnation           int // 0 when announced by vmSettings alone
	svdSeq                int
	ticks                 int64
	activity, correlation string
	source                string // Fabric or FastTrack
	handlers              []handlerGoal
	cfg                   Config

	container, instanceID, configName, path string
}

// A handlerGoal is the wanted state of one handler.
type handlerGoal struct {
	name, version, state string
	multi                bool
	location, failover   string
	additional           []string
	signature            string
	instances            []instanceGoal
	autoUpgrade          bool
}

// An instanceGoal is one settings object of a handler; a handler without
// settings has none.
type instanceGoal struct {
	name, state           string
	seq                   int
	settings              bool
	public                json.RawMessage // nil when absent
	protected, thumbprint string
	level                 int
	after                 [][2]string // handler, extension
}

// sequenced reports whether any instance has a dependency level.
func (h handlerGoal) sequenced() bool {
	return slices.ContainsFunc(h.instances, func(i instanceGoal) bool { return i.level > 0 })
}

// keepDocuments is the number of latest incarnations whose sub-documents are
// served.
const keepDocuments = 16

// announce takes a snapshot of the VM's wanted state as a new goal state. The
// caller holds f.mu.
func (v *VM) announce(fastTrack bool) {
	v.ordinal++
	v.svdSeq++
	gs := &goalState{
		ordinal: v.ordinal, svdSeq: v.svdSeq, ticks: v.ticks(),
		activity: newGUID(), correlation: newGUID(),
		source: "Fabric", cfg: v.cfg, handlers: v.goals(),
		container: v.container, instanceID: v.instanceID(), configName: v.configName,
	}
	if fastTrack {
		gs.source = "FastTrack"
		v.seen["s"+strconv.Itoa(gs.svdSeq)] = gs.ordinal
	} else {
		v.incarnation++
		gs.incarnation = v.incarnation
		v.seen["f"+strconv.Itoa(gs.incarnation)] = gs.ordinal
		v.configName = v.newConfigName()
		v.configNames[v.configName] = true
		gs.configName = v.configName
		gs.path = v.machinePath()
		v.fabric = gs
		v.documents[documentKey(gs.path, gs.incarnation)] = gs
		delete(v.documents, documentKey(gs.path, gs.incarnation-keepDocuments))
	}
	v.current = gs
	v.etag = newETag()
	v.grantBlobs()
	kind := "incarnation " + strconv.Itoa(gs.incarnation)
	if fastTrack {
		kind = "etag " + v.etag
	}
	v.f.journal.add(Entry{VM: v.name, Kind: Change, Detail: map[string]any{"announced": kind, "svdSeqNo": gs.svdSeq}})
}

func documentKey(path string, incarnation int) string { return path + "#" + strconv.Itoa(incarnation) }

// ticks returns the creation time in units of 100 ns since the year 1; it never
// returns the same value twice.
func (v *VM) ticks() int64 {
	const unixEpoch = 621355968000000000
	t := time.Now().UnixNano()/100 + unixEpoch
	if v.current != nil && t <= v.current.ticks {
		t = v.current.ticks + 1
	}
	return t
}

// goals converts the VM's extension resources to the handlers of a goal state.
func (v *VM) goals() []handlerGoal {
	var out []handlerGoal
	levels := v.levels()
	for _, e := range v.extensions {
		name := e.handler()
		i := slices.IndexFunc(out, func(h handlerGoal) bool { return strings.EqualFold(h.name, name) })
		if i < 0 {
			h := handlerGoal{name: name, version: e.version, state: "uninstall", multi: e.multi, autoUpgrade: e.autoUpgrade()}
			if p := v.f.packages[strings.ToLower(name)]; p != nil {
				h.name = p.name
				if pkg := p.versions[e.version]; pkg != nil {
					h.signature = pkg.signature
				}
			}
			h.location, h.failover, h.additional = v.f.manifestURLs(h.name)
			out = append(out, h)
			i = len(out) - 1
		}
		h := &out[i]
		inst := instanceGoal{name: e.name, state: "enabled", seq: e.seq, settings: e.hasSettings()}
		if e.deleting {
			inst.state = "disabled"
			if !e.multi {
				continue // an uninstalled handler has no settings
			}
		} else {
			h.state = "enabled"
			h.version = e.version
			inst.level = levels[strings.ToLower(e.name)]
			for _, a := range e.after {
				if d := v.extensionNamed(a); d != nil {
					inst.after = append(inst.after, [2]string{d.handler(), d.name})
				}
			}
		}
		if e.settings != nil {
			inst.public = e.settings
		}
		if e.protected != nil {
			inst.protected, inst.thumbprint = v.encryptSettings(e)
		}
		if inst.settings || e.multi || inst.level > 0 {
			h.instances = append(h.instances, inst)
		}
	}
	for i := range out {
		if out[i].state == "uninstall" {
			out[i].instances = nil
		}
	}
	return out
}

// encryptSettings encrypts protected settings once per certificate, as CRP
// does: a goal state that does not change the extension repeats the same bytes.
func (v *VM) encryptSettings(e *extension) (text, thumbprint string) {
	if v.tenant == nil || e.sealedFor != v.tenant {
		text, thumbprint, err := v.protect(e.protected)
		if err != nil {
			v.f.opts.Log("extension %s: %v", e.name, err)
			return "", ""
		}
		e.sealed, e.sealedThumbprint, e.sealedFor = text, thumbprint, v.tenant
	}
	return e.sealed, e.sealedThumbprint
}

// levels computes dependencyLevel: the length of the longest chain of
// provisionAfterExtensions, starting at 1; empty if no extension has
// dependencies.
func (v *VM) levels() map[string]int {
	levels := map[string]int{}
	if !slices.ContainsFunc(v.extensions, func(e *extension) bool { return !e.deleting && len(e.after) > 0 }) {
		return levels
	}
	var level func(e *extension, depth int) int
	level = func(e *extension, depth int) int {
		n := 0
		for _, a := range e.after {
			if d := v.extensionNamed(a); d != nil && depth < len(v.extensions) {
				n = max(n, level(d, depth+1))
			}
		}
		return n + 1
	}
	for _, e := range v.extensions {
		if !e.deleting {
			levels[strings.ToLower(e.name)] = level(e, 0)
		}
	}
	return levels
}

func (v *VM) extensionNamed(name string) *extension {
	for _, e := range v.extensions {
		if strings.EqualFold(e.name, name) {
			return e
		}
	}
	return nil
}

// families returns the agent families, with default URIs.
func (gs *goalState) families(f *Fabric) []AgentFamily {
	families := gs.cfg.AgentFamilies
	if families == nil {
		families = []AgentFamily{{Name: "Prod"}}
	}
	out := slices.Clone(families)
	for i := range out {
		if out[i].URIs == nil {
			a, b, _ := f.manifestURLs(agentPackage)
			out[i].URIs = []string{a, b}
		}
	}
	return out
}

// statusAccount is the storage account of the VM's own blobs; it is part of
// their URL.
const statusAccount = "vmstatus"

func (v *VM) blobPath(suffix string) string {
	return fmt.Sprintf("/$system/%s.%s.%s", v.name, v.id, suffix)
}

// grantBlobs makes the VM's blobs accessible through their SAS URLs.
func (v *VM) grantBlobs() {
	f := v.f
	f.store.grant(statusAccount, v.blobPath("status"), "w")
	f.store.grant(statusAccount, v.blobPath("vmSettings"), "r")
	f.store.grant(statusAccount, v.blobPath("vmHealth"), "rw")
	profile, _ := json.Marshal(map[string]any{"onHold": v.cfg.OnHold}) // cannot fail
	f.store.set(statusAccount, v.blobPath("vmSettings"), profile)
}

// StatusURL is the SAS URL to which the guest uploads its status.
func (v *VM) StatusURL() string {
	return v.f.store.url(v.f.opts.BlobURL, statusAccount, v.blobPath("status"))
}

func (v *VM) profileURL() string {
	return v.f.store.url(v.f.opts.BlobURL, statusAccount, v.blobPath("vmSettings"))
}

func (v *VM) healthURL() string {
	return v.f.store.url(v.f.opts.BlobURL, statusAccount, v.blobPath("vmHealth"))
}

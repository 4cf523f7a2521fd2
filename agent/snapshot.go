package agent

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/extensions"
	"github.com/azguest/azguest/protocol"
)

// fill completes a copy of the board with what other parts know better.
func (a *Agent) fill(s *status.Snapshot) {
	a.fillEndpoints(s)
	a.fillExtensions(s)
	a.fillTelemetry(&s.Telemetry)
	s.AuditSeq = a.ext.AuditSeq()
	s.Hold = nil
	if h, on := a.hold.now(); on {
		s.Hold = &status.Hold{Until: h.Until, Reason: h.Reason}
	}
	p := &s.Platform
	for _, f := range a.features() {
		p.SupportedFeatures = append(p.SupportedFeatures, f.Key)
	}
	p.MissingFeatures = nil
	for _, f := range p.RequiredFeatures {
		if !slices.Contains(p.SupportedFeatures, f) {
			p.MissingFeatures = append(p.MissingFeatures, f)
		}
	}
	if p.Code == "" && len(p.MissingFeatures) > 0 {
		p.Problem = problem("AZ-PLAT-FEATURE", p.GoalState.Received)
	}
	if since := a.rep.refusedSince(); p.Code == "" && !since.IsZero() {
		p.Problem = problem("AZ-PLAT-REJECTED", since)
	}
	s.Policy.Denied = nil
	for _, e := range s.Extensions {
		if strings.HasPrefix(e.Code, "AZ-POL-") {
			s.Policy.Denied = append(s.Policy.Denied, e.Title())
		}
	}
	slices.Sort(s.Policy.Denied)
	s.Policy.Denied = slices.Compact(s.Policy.Denied)
}

func problem(code string, since time.Time) status.Problem {
	return status.Problem{Code: code, Since: since, Fix: fixOf(code)}
}

// fillExtensions puts the engine's view into a snapshot.
func (a *Agent) fillExtensions(s *status.Snapshot) {
	s.Extensions = []status.Extension{}
	for _, d := range a.ext.Details() {
		e := extension(d)
		if e.Unit != "" {
			e.Limits, e.ThrottledS = limits(cgroup.LimitsOf(e.Unit))
		}
		e.Requester = a.requesters.by(d)
		s.Extensions = append(s.Extensions, e)
	}
	a.rep.date(s.Extensions)
}

// date says since when what no command failed at is wrong: since it was seen
// first.
func (r *reports) date(exts []status.Extension) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]time.Time{}
	for i := range exts {
		e := &exts[i]
		if e.Code == "" {
			continue
		}
		key := e.Title() + " " + e.Code
		if seen[key] = r.seen[key]; seen[key].IsZero() {
			seen[key] = time.Now().UTC()
		}
		if e.Since.IsZero() {
			e.Since = seen[key]
		}
	}
	r.seen = seen
}

// extension maps one row.
func extension(d extensions.Detail) status.Extension {
	e := status.Extension{
		Name: d.Name, Config: d.Config, Version: d.Version, Seq: d.Seq, Desired: d.Desired, Actual: string(d.Actual), Phase: string(d.Phase),
		Status: d.Status, StatusCode: d.Code, Ready: d.Ready, Message: secret.Redact(d.Message),
		Started: d.Started, Finished: d.Finished, Deadline: d.Deadline, Attempts: d.Attempts, WhyRan: d.WhyRan, BlockedBy: d.BlockedBy, Overdue: d.Overdue,
		StdoutTail: secret.Redact(d.StdoutTail), StderrTail: secret.Redact(d.StderrTail), LastOutput: d.LastOutput, LogDir: d.LogDir,
		PID: d.PID, Unit: d.Scope, Installed: d.Installed, Digest: d.Digest, Signer: d.Signer,
	}
	e.Notes = slices.Clone(d.Notes)
	if d.Exit != nil {
		e.ThrottledS = d.Exit.Throttled.Seconds() // of what ended; what runs is looked at by the caller
		if d.Exit.Slowed() {
			e.Notes = append(e.Notes, "AZ-CG-THROTTLED")
		}
		e.Exit = &status.Exit{Code: d.Exit.Code, Signal: d.Exit.Signal, Class: d.Exit.Class}
	}
	if code := extensionCode(d); code != "" {
		e.Problem = problem(code, d.Finished)
		e.Fix = strings.ReplaceAll(e.Fix, "EXTENSION", e.Name)
	}
	return e
}

// extensionCode names what is wrong with an extension, "" if nothing is. The
// engine knows; the message, which may quote a handler, is not looked at.
func extensionCode(d extensions.Detail) string {
	failed := d.Status == status.StatusError || d.Ready == "NotReady" || d.Ready == "Unresponsive"
	if d.Overdue != "" {
		return "AZ-EXT-OVERDUE"
	}
	if d.Phase != "" || d.BlockedBy != "" || !failed { // being worked on, or well
		return ""
	}
	switch d.Cause {
	case "":
		return "AZ-EXT-REPORTED" // by a heartbeat or another agent: nothing of ours has failed
	case "AZ-EXT-NOEXEC":
		return "AZ-EXEC-NOEXEC" // where `agentctl explain` has one for both
	}
	return d.Cause
}

func limits(l cgroup.Limits, ok bool) (*status.Limits, float64) {
	if !ok {
		return nil, 0
	}
	return &status.Limits{CPUPercent: l.CPUPercent, MemoryMax: l.MemoryMax, TasksMax: l.TasksMax}, l.Throttled.Seconds()
}

// requesters remembers in which goal state each set of settings came first, so
// that an operation can be traced to who ordered it.
type requesters struct {
	mu    sync.Mutex // guards orders
	byKey map[string]requester
}

type requester struct {
	at       time.Time
	activity string
}

func requesterKey(name, config, version string, seq int) string {
	return strings.ToLower(name) + "\x00" + config + "\x00" + version + "\x00" + strconv.Itoa(seq)
}

// set takes over what is asked for now; what was asked for before keeps its
// provisioningInput.
func (x *requesters) set(gs *protocol.GoalState) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := map[string]requester{}
	add := func(name, config, version string, seq int) {
		key := requesterKey(name, config, version, seq)
		o, ok := x.byKey[key]
		if !ok {
			o = requester{gs.Received, gs.ActivityID}
		}
		now[key] = o
	}
	for _, h := range gs.Handlers {
		if len(h.Settings) == 0 {
			add(h.Name, "", h.Version, -1)
		}
		for _, s := range h.Settings {
			config := ""
			if h.MultiConfig {
				config = s.Name
			}
			add(h.Name, config, h.Version, s.Seq)
		}
	}
	x.byKey = now
}

// by names the activity that ordered the last operation of an extension. An
// operation that is older than the order was ordered by somebody we have
// forgotten, for instance before a restart.
func (x *requesters) by(d extensions.Detail) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	o := x.byKey[requesterKey(d.Name, d.Config, d.Version, d.Seq)]
	if o.activity == "" || d.Started.IsZero() || d.Started.Before(o.at) {
		return ""
	}
	return "activity " + o.activity
}

// certs judges the certificates of a goal state.
func certs(gs *protocol.GoalState) []status.Cert {
	users := map[string][]string{}
	for _, h := range gs.Handlers {
		for _, s := range h.Settings {
			tp := strings.ToUpper(s.Thumbprint)
			if tp != "" && !slices.Contains(users[tp], h.Name) {
				users[tp] = append(users[tp], h.Name)
			}
		}
	}
	var out []status.Cert
	have := map[string]bool{}
	for _, c := range gs.Certs {
		tp := strings.ToUpper(c.Thumbprint)
		have[tp] = true
		s := status.Cert{Thumbprint: tp, Name: c.Name, State: status.OK, HasKey: c.KeyPEM.Set(), UsedBy: users[tp]}
		s.KeyType, s.NotAfter = describe(c.CertPEM)
		switch {
		case !s.HasKey && len(s.UsedBy) > 0:
			s.State, s.Message, s.Problem = status.Error, "delivered without its private key", problem("AZ-CERT-NOKEY", gs.Received)
		case !s.NotAfter.IsZero() && gs.Received.After(s.NotAfter):
			s.Message = "expired; can still decrypt protected settings"
		}
		out = append(out, s)
	}
	var missing []string
	for tp := range users {
		if !have[tp] {
			missing = append(missing, tp)
		}
	}
	slices.Sort(missing)
	for _, tp := range missing {
		out = append(out, status.Cert{
			Thumbprint: tp, State: status.Error, UsedBy: users[tp], Message: "not in the certificates of the goal state",
			Problem: problem("AZ-CERT-MISSING", gs.Received),
		})
	}
	return out
}

// certsCode: they did not come, or can't be read.
func certsCode(err error) string {
	if _, fault := errors.AsType[*protocol.Fault](err); fault {
		return "AZ-CERT-FETCH"
	}
	return "AZ-CERT-DECRYPT"
}

func describe(certPEM []byte) (kind string, until time.Time) {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return "", time.Time{}
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", time.Time{}
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		kind = fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		kind = "EC " + k.Curve.Params().Name
	case ed25519.PublicKey:
		kind = "Ed25519"
	default:
		kind = c.PublicKeyAlgorithm.String()
	}
	return kind, c.NotAfter.UTC()
}

// showPolicy reads which policy is in force; the engine reads it at the same
// moments.
func (a *Agent) showPolicy() {
	p := status.Policy{Mode: a.cfg.Policy.Mode, Why: a.cfg.PolicyWhy()}
	files, err := extensions.PolicyFiles(a.Root, extensions.PolicyConfig{File: a.cfg.Policy.File})
	if err != nil {
		a.Log.Debug().Err(err).Msg("could not list policy files")
	}
	p.Source = strings.Join(files, ", ")
	if p.Mode != extensions.PolicyOff {
		if _, refusal := a.ext.PolicyExplain("Any.Extension", "1.0", ""); refusal.Cause == extensions.PolicyInvalid {
			p.Problem = problem(refusal.Cause, time.Now().UTC())
		}
	}
	a.live.set(func(s *status.Snapshot) {
		if s.Policy.Code == p.Code && p.Code != "" {
			p.Since = s.Policy.Since
		}
		s.Policy = p
	})
}

func (a *Agent) fillTelemetry(t *status.Telemetry) {
	if !t.Enabled {
		*t = status.Telemetry{}
		return
	}
	t.SpoolDir = a.cfg.Paths.Lib + "/events"
	t.Queued, t.Bytes = a.spool.Size()
	if t.Error != "" && t.Dropped > 0 {
		t.Problem = problem("AZ-TEL-DROPPED", t.LastAt)
	}
}

// lives counts the starts of the agent since boot. It is in /run, which
// begins empty.
const lives = "/run/azguest/lives"

// A life is what the file says: how often the agent came back although
// nobody had stopped it, and whether it is running.
type life struct {
	Restarts int  `json:"restarts"`
	Running  bool `json:"running"`
}

// countLife notes a start, and with the function it returns an end in good
// provisioningInput. Only what nobody ordered counts as a restart.
func (a *Agent) countLife() (restarts int, end func()) {
	var l life
	b, err := a.Root.ReadFile(lives)
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.Log.Debug().Err(err).Msg("could not count restarts")
	}
	if l.Running {
		l.Restarts++
	}
	write := func(l life) {
		b, err := json.Marshal(l)
		if err == nil {
			err = a.Root.WriteFile(lives, append(b, '\n'), 0o644)
		}
		if err != nil {
			a.Log.Debug().Err(err).Msg("could not save restart counter")
		}
	}
	l.Running = true
	write(l)
	return l.Restarts, func() {
		l.Running = false
		write(l)
	}
}

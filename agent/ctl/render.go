package ctl

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/azguest/azguest/agent/status"
)

// view has everything that the status screen shows.
type view struct {
	snap    status.Snapshot
	snapErr error
	life    status.Life
	now     time.Time
	color   bool
	width   int // 0: do not cut
}

// verdict is the overall state and the exit code.
type verdict struct {
	State    string   `json:"state"`
	ExitCode int      `json:"exit_code"`
	Codes    []string `json:"codes,omitempty"`
	Reason   string   `json:"reason,omitempty"`
}

func (v view) verdict() verdict {
	o := v.snap.Overall
	switch {
	case v.life.Known && !v.life.Running:
		return verdict{"not running", ExitDown, []string{"AZ-AGENT-DOWN"}, ""}
	case errors.Is(v.snapErr, status.ErrSchema):
		return verdict{"unknown", ExitUnknown, []string{"AZ-AGENT-SNAPSHOT"}, v.snapErr.Error()}
	case v.snapErr != nil:
		return verdict{"unknown", ExitUnknown, nil, noSnapshot(v.life, v.snapErr).Error()}
	case !v.life.Known:
		return verdict{"unknown", ExitUnknown, nil, v.life.How}
	case v.snap.Stale(v.now):
		return verdict{"failed", ExitFailed, []string{"AZ-AGENT-HUNG"}, ""}
	}
	codes := map[status.State]int{
		status.Healthy: ExitHealthy, status.Starting: ExitDegraded,
		status.Degraded: ExitDegraded, status.Failed: ExitFailed,
	}
	code, known := codes[o.State]
	if !known {
		return verdict{"unknown", ExitUnknown, o.Codes, "the status has no overall state"}
	}
	return verdict{string(o.State), code, o.Codes, ""}
}

// A row is one line of the screen, and the lines that belong to it.
type row struct {
	label string
	text  string
	rank  int // 0 failed, 1 warning, 2 ok
	more  []string
}

const indent = 11

// render writes the screen: the verdict, then problems, then the rest.
func (v view) render(w io.Writer) {
	ver := v.verdict()
	p := painter(v.color)
	head := []string{p.state(strings.ToUpper(ver.State), ver.ExitCode)}
	have := v.snapErr == nil || errors.Is(v.snapErr, status.ErrSchema)
	if have {
		head = append(head, v.agentFacts()...)
	}
	v.line(w, "agent", strings.Join(head, "  "))
	if ver.Reason != "" {
		v.line(w, "", ver.Reason)
	}
	for _, c := range []string{"AZ-AGENT-DOWN", "AZ-AGENT-HUNG", "AZ-AGENT-SNAPSHOT"} {
		if slices.Contains(ver.Codes, c) {
			v.line(w, "", p.code(c)+": "+fixFor(c, "", ""))
		}
	}
	if !have {
		return
	}
	if !v.life.Running || v.snap.Stale(v.now) {
		v.line(w, "", p.bold("status is "+span(v.now.Sub(v.snap.WrittenAt))+" old")+", written "+v.snap.WrittenAt.UTC().Format(time.DateTime)+" UTC")
	}
	rows := v.rows()
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.rank, b.rank) })
	for _, r := range rows {
		v.line(w, r.label, r.text)
		for _, m := range r.more {
			v.line(w, "", m)
		}
	}
	v.lastChange(w)
}

// line writes one row, with a label or indented. On a terminal it is broken at
// words.
func (v view) line(w io.Writer, label, text string) {
	text = strings.ReplaceAll(strings.TrimRight(text, " "), "\n", " ")
	if len(label) >= indent {
		label += " "
	}
	for i, l := range wrap(text, v.width-max(indent, len(label))) {
		if i > 0 {
			label = ""
		}
		fmt.Fprintf(w, "%-*s%s\n", indent, label, l)
	}
}

// minRoom is the least number of columns that text is broken to; below it, the
// terminal breaks it.
const minRoom = 20

// wrap breaks text at blanks into lines of at most room columns, which begin
// with the same blanks; a longer word has a line of its own.
func wrap(text string, room int) []string {
	if room < minRoom {
		return []string{text}
	}
	lead := text[:len(text)-len(strings.TrimLeft(text, " "))]
	text, room = text[len(lead):], room-len(lead)
	var out []string
	line, used := lead, 0
	for text != "" {
		blanks := len(text) - len(strings.TrimLeft(text, " "))
		end := blanks + strings.IndexByte(text[blanks:]+" ", ' ')
		word := text[:end]
		text = text[end:]
		n := columns(word)
		if used > 0 && used+n > room {
			out = append(out, line)
			line, used = lead, 0
			word = word[blanks:]
			n -= blanks
		}
		line += word
		used += n
	}
	return append(out, line)
}

// columns returns how many columns of a terminal a text takes. Sequences that
// set colors take none, combining characters none, those of East Asian scripts
// two.
func columns(s string) int {
	n, escape := 0, false
	for _, r := range s {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		case unicode.In(r, unicode.Mn, unicode.Me):
		case unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana) || r >= 0xff01 && r <= 0xff60:
			n += 2
		default:
			n++
		}
	}
	return n
}

func (v view) agentFacts() []string {
	a := v.snap.Agent
	facts := []string{a.Version}
	if u := a.Update; u.Mode != "" {
		s := "update " + u.Mode
		if u.Mode == "channel" && u.Channel != "" {
			s += " " + u.Channel
		}
		if u.Pinned != "" {
			s += " " + u.Pinned
		}
		facts[0] += " (" + s + ")"
	}
	if v.life.Running {
		facts = append(facts, fmt.Sprintf("pid %d", cmp.Or(v.life.PID, a.PID)))
		if !a.Started.IsZero() {
			facts = append(facts, "up "+span(v.now.Sub(a.Started)))
		}
		if a.RSS > 0 {
			facts = append(facts, "rss "+size(a.RSS))
		}
		if a.CPUSeconds > 0 {
			facts = append(facts, fmt.Sprintf("cpu %.2f%%", a.CPUPercent))
		}
		if a.FDs > 0 {
			facts = append(facts, fmt.Sprintf("fds %d", a.FDs))
		}
	}
	if a.Restarts > 0 {
		facts = append(facts, fmt.Sprintf("%d restarts", a.Restarts))
	}
	return facts
}

// rows returns the parts in their usual order.
func (v view) rows() []row {
	s := v.snap
	rows := []row{v.platformRow()}
	if len(s.Endpoints) > 0 {
		rows = append(rows, v.endpointsRow())
	}
	if s.Firewall.State != "" {
		rows = append(rows, v.firewallRow())
	}
	if s.Disk.State != "" {
		rows = append(rows, v.diskRow())
	}
	if len(s.Certs) > 0 {
		rows = append(rows, v.certsRow())
	}
	rows = append(rows, v.provisionRow())
	if p := s.Policy; p.Source != "" || p.Code != "" || len(p.Denied) > 0 || p.Mode == "audit" {
		rows = append(rows, v.policyRow())
	}
	if h := s.Hold; h != nil && h.Until.After(v.now) {
		text := "no extension is started for another " + span(h.Until.Sub(v.now)) + " (hold by the operator; end it with: agentctl resume)"
		if h.Reason != "" {
			text += ": " + h.Reason
		}
		rows = append(rows, row{label: "hold", text: text, rank: 1})
	}
	if s.Clock.Code != "" {
		rows = append(rows, v.problem(row{label: "clock", text: fmt.Sprintf("off by %.0f s", s.Clock.SkewS)}, s.Clock.Problem, s.Clock.State))
	}
	if s.Agent.Update.Code != "" {
		rows = append(rows, v.problem(row{label: "update", text: s.Agent.Update.LastResult}, s.Agent.Update.Problem, ""))
	}
	if s.Telemetry.Code != "" {
		rows = append(rows, v.problem(row{label: "telemetry", text: s.Telemetry.Error}, s.Telemetry.Problem, ""))
	}
	if s.Metadata != nil {
		rows = append(rows, row{label: "metadata", text: v.metadataText(*s.Metadata), rank: 2})
	}
	if s.UserData != nil {
		rows = append(rows, v.userDataRow(*s.UserData))
	}
	if s.Hooks != nil {
		rows = append(rows, v.hooksRow())
	}
	for _, p := range s.Problems {
		rows = append(rows, v.problem(row{label: "problem", text: clean(strings.TrimSuffix(p.What+": "+p.Message, ": "))}, p.Problem, p.State))
	}
	return append(rows, v.extensionsRow())
}

// metadataText says which copies of the instance metadata are kept.
func (v view) metadataText(m status.Metadata) string {
	text := "not fetched yet"
	if !m.Fetched.IsZero() {
		text = "fetched " + span(v.now.Sub(m.Fetched)) + " ago"
	}
	if m.PeriodS > 0 {
		text += ", every " + span(time.Duration(m.PeriodS)*time.Second)
	}
	if m.File != "" {
		text += ", also in " + m.File
	}
	return text
}

// policyRow shows the policy, whether or not it is enforced.
func (v view) policyRow() row {
	p := v.snap.Policy
	text := p.Mode
	if len(p.Denied) > 0 {
		text += fmt.Sprintf(", denied: %s", strings.Join(p.Denied, ", "))
	}
	if p.Why != "" {
		text += "  (" + clean(p.Why) + ")"
	}
	r := row{label: "policy", text: text}
	switch {
	case p.Source == "":
	case p.Mode == "off":
		r.more = append(r.more, "not enforced: "+clean(p.Source))
	case p.Mode == "audit":
		r.more = append(r.more, "audited, not enforced: "+clean(p.Source))
	}
	return v.problem(r, p.Problem, "")
}

// userDataRow says what became of the user data. What is wrong with it has lines
// of its own.
func (v view) userDataRow(d status.UserData) row {
	r := row{label: "user data", rank: 2}
	items := fmt.Sprintf("%d of %d items", d.Done, d.Items)
	if d.Bad > 0 {
		items += fmt.Sprintf(", %d with problems", d.Bad)
	}
	switch d.State {
	case status.DataWaiting:
		r.text = "waiting for " + clean(d.Waiting)
	case status.DataRunning:
		r.text = items + " done"
	case status.DataDone:
		r.text = items + " carried out"
		if !d.Finished.IsZero() {
			r.text += ", " + span(v.now.Sub(d.Finished)) + " ago"
		}
	case status.DataNone:
		r.text = "none"
	case status.DataLeft:
		by := clean(cmp.Or(v.snap.Provisioning.By, "another program"))
		if by == "azguest" {
			by = "cloud-init, which has begun it" // only its failures are taken over
		}
		r.text = "left to " + by
	case status.DataRefused:
		r.text = "not carried out: it has faults (see: agentctl data status)"
	default:
		r.text = clean(d.State)
	}
	return r
}

// hooksRow shows the events that are not over, or the last one. What is wrong
// with scripts has lines of its own.
func (v view) hooksRow() row {
	h := v.snap.Hooks
	r := row{label: "hooks", rank: 2, text: "no events"}
	var open []string
	for _, run := range h.Runs {
		if e := run.Event; run.Announced() && e.ID != "" && e.Gone.IsZero() {
			open = append(open, fmt.Sprintf("%s %s (scripts: %s; acknowledged: %s)", run.Hook, eventLine(run), scriptsLine(run), ackLine(run)))
		}
	}
	switch {
	case len(open) > 0:
		r.text = clean(strings.Join(open, ", "))
	case len(h.Runs) > 0:
		last := h.Runs[len(h.Runs)-1]
		r.text = clean(fmt.Sprintf("last %s %s ago (scripts: %s)", last.Hook, span(v.now.Sub(last.Seen)), scriptsLine(last)))
	}
	return r
}

// problem sets the rank of a row from its state and code, and adds the lines
// about the problem.
func (v view) problem(r row, p status.Problem, st status.State) row {
	r.rank = 2
	if st == status.Error {
		r.rank = 0
	}
	if p.Code == "" {
		return r
	}
	r.rank = min(r.rank, 1)
	r.more = append(r.more, v.worry(p, "")...)
	return r
}

// worry returns the lines about a problem: code, meaning and fix.
func (v view) worry(p status.Problem, ext string) []string {
	if p.Code == "" {
		return nil
	}
	line := painter(v.color).code(p.Code)
	if !p.Since.IsZero() {
		line += " for " + span(v.now.Sub(p.Since))
	}
	out := []string{line + ": " + meaning(p.Code)}
	if fix := fixFor(p.Code, p.Fix, ext); fix != "" {
		out = append(out, "fix: "+fix)
	}
	return out
}

func (v view) platformRow() row {
	pl, pr := v.snap.Platform, painter(v.color)
	var parts []string
	rep, health := pl.LastReport, cmp.Or(pl.Health, "status")
	if rep.At.IsZero() {
		rep = pl.LastHealth
	}
	switch {
	case rep.At.IsZero():
		parts = append(parts, "nothing sent yet")
	case rep.Accepted:
		parts = append(parts, fmt.Sprintf("%s sent %s ago (accepted%s)", health, span(v.now.Sub(rep.At)), httpStatus(rep)))
	case rep.Sent:
		parts = append(parts, pr.bad(fmt.Sprintf("%s sent %s ago, NOT accepted%s", health, span(v.now.Sub(rep.At)), httpStatus(rep))))
	default:
		parts = append(parts, pr.bad(fmt.Sprintf("%s could not be sent %s ago", health, span(v.now.Sub(rep.At)))))
	}
	if g := pl.GoalState; g.ID != "" {
		text := "goal state " + g.ID
		switch {
		case g.Applied.IsZero() || g.Applied.Before(g.Received):
			text += " received " + span(v.now.Sub(g.Received)) + " ago, not applied yet"
		default:
			text += " applied " + span(v.now.Sub(g.Applied)) + " ago"
		}
		parts = append(parts, text)
	}
	if id := v.snap.VM.ContainerID; id != "" {
		parts = append(parts, "container "+id[:min(8, len(id))])
	}
	r := row{label: "platform", text: strings.Join(parts, "  ")}
	if pl.Waiting != "" {
		r.more = append(r.more, "waiting for "+clean(pl.Waiting))
	}
	if pl.OnHold {
		r.more = append(r.more, "extensions are on hold: the platform over-provisions this VM")
	}
	if e := rep.Error; e != "" && !rep.Accepted {
		r.more = append(r.more, "answer: "+v.cut(clean(e), 9))
	}
	if len(pl.MissingFeatures) > 0 {
		r.more = append(r.more, "unsupported required features: "+strings.Join(pl.MissingFeatures, ", "))
	}
	r = v.problem(r, pl.Problem, "")
	if !rep.At.IsZero() && !rep.Accepted {
		r.rank = min(r.rank, 1)
	}
	return r
}

func httpStatus(r status.Report) string {
	if r.HTTPStatus == 0 {
		return ""
	}
	return fmt.Sprintf(" %d", r.HTTPStatus)
}

func (v view) endpointsRow() row {
	var parts []string
	r := row{label: "endpoints", rank: 2}
	proxy := "none"
	for _, e := range v.snap.Endpoints {
		text := e.Name + " " + string(e.State)
		if e.Via != "" && e.Via != "direct" {
			text += " via " + e.Via
		}
		if e.LatencyS > 0 && e.State == status.OK {
			text += " " + latency(time.Duration(e.LatencyS*float64(time.Second)))
		}
		parts = append(parts, text)
		proxy = cmp.Or(e.Proxy, proxy)
		if e.Code != "" {
			x := v.problem(row{}, e.Problem, e.State)
			r.rank = min(r.rank, x.rank)
			if e.Code == v.snap.Platform.Code {
				continue // shown in the platform row
			}
			if e.LastError != "" {
				r.more = append(r.more, e.Name+": "+v.cut(clean(e.LastError), len(e.Name)+2))
			}
			r.more = append(r.more, x.more...)
		}
	}
	r.text = strings.Join(append(parts, "proxy "+proxy), " | ")
	return r
}

func latency(d time.Duration) string {
	if d < time.Millisecond {
		return "<1ms"
	}
	return span(d)
}

func (v view) firewallRow() row {
	f := v.snap.Firewall
	text := string(f.State)
	if f.Backend != "" {
		text = f.Backend + " " + text
	}
	if !f.VerifiedAt.IsZero() {
		text += ", verified " + span(v.now.Sub(f.VerifiedAt)) + " ago"
	}
	if len(f.Results) > 0 {
		var res []string
		for k, val := range f.Results {
			res = append(res, k+": "+val)
		}
		slices.Sort(res)
		text += " (" + strings.Join(res, ", ") + ")"
	}
	r := row{label: "firewall", text: text}
	if f.Message != "" && f.State != status.OK {
		r.more = append(r.more, v.cut(clean(f.Message), 0))
	}
	return v.problem(r, f.Problem, f.State)
}

func (v view) diskRow() row {
	d := v.snap.Disk
	text := "lib " + size(d.Used)
	if d.Budget > 0 {
		text += "/" + size(d.Budget)
	}
	if d.Files > 0 {
		text += fmt.Sprintf(", %d files", d.Files)
	}
	if d.Free > 0 || d.FreePercent > 0 {
		text += fmt.Sprintf("  free %s (%.0f%%)", size(d.Free), d.FreePercent)
	}
	if d.ReadOnly {
		text += "  read-only"
	}
	return v.problem(row{label: "disk", text: text}, d.Problem, d.State)
}

func (v view) certsRow() row {
	r := row{label: "certs", rank: 2}
	good, missing := 0, 0
	for _, c := range v.snap.Certs {
		if c.Code == "" {
			good++
			continue
		}
		missing++
		x := v.problem(row{}, c.Problem, c.State)
		r.rank = min(r.rank, x.rank)
		who := c.Thumbprint
		if len(c.UsedBy) > 0 {
			who += ", needed by " + strings.Join(c.UsedBy, ", ")
		}
		r.more = append(append(r.more, who), x.more...)
	}
	switch n := good + missing; {
	case missing > 0:
		r.text = fmt.Sprintf("%d usable, %d not usable", good, missing)
	case n == 1:
		r.text = "1 certificate, usable"
	default:
		r.text = fmt.Sprintf("%d certificates, all usable", n)
	}
	return r
}

func (v view) provisionRow() row {
	p := v.snap.Provisioning
	by := ""
	if p.By != "" && p.By != status.ByNobody {
		by = " by " + p.By
	}
	text := cmp.Or(p.State, "unknown") + by
	if p.State == status.ProvDone && !p.Finished.IsZero() {
		text += " " + span(v.now.Sub(p.Finished)) + " ago"
		if !p.Started.IsZero() {
			text += ", took " + span(p.Finished.Sub(p.Started))
		}
	}
	r := row{label: "provision", text: text}
	if p.Waiting != "" {
		r.more = append(r.more, "waiting for "+clean(p.Waiting))
	}
	if p.Error != "" {
		r.more = append(r.more, v.cut(clean(p.Error), 0))
	}
	if p.State != status.ProvDone {
		for _, st := range p.Steps {
			line := fmt.Sprintf("%-8s %s", st.State, clean(st.Name))
			if st.Error != "" {
				line += ": " + v.cut(clean(st.Error), len(line)+2)
			}
			r.more = append(r.more, line)
		}
	}
	r.more = append(r.more, v.login(p.Login)...)
	st := status.OK
	if p.State == status.ProvFailed {
		st = status.Error
	}
	return v.problem(r, p.Problem, st)
}

// login shows whether the person can get in; nothing if all is well.
func (v view) login(l *status.Login) []string {
	if l == nil || len(l.Findings) == 0 {
		return nil
	}
	var ways []string
	for _, w := range l.Ways {
		word := "shut"
		if w.Open {
			word = "open"
		}
		ways = append(ways, w.Name+" "+word)
	}
	out := []string{clean("log-in of " + l.User + ": " + strings.Join(ways, ", "))}
	for _, f := range l.Findings {
		line := f.Code + " "
		out = append(out, line+v.cut(clean(cmp.Or(f.Evidence, meaning(f.Code))), len(line)))
		if f.Fix != "" {
			out = append(out, "  fix: "+v.cut(clean(f.Fix), 7))
		}
	}
	return out
}

func (v view) lastChange(w io.Writer) {
	h := v.snap.History
	if len(h) == 0 {
		return
	}
	t := h[len(h)-1]
	text := fmt.Sprintf("%s ago: %s", span(v.now.Sub(t.At)), transition(t))
	v.line(w, "last change", clean(text))
}

func transition(t status.Transition) string {
	text := t.What
	switch {
	case t.From != "" && t.To != "":
		text += " " + t.From + " -> " + t.To
	case t.To != "":
		text += " -> " + t.To
	}
	if t.Why != "" {
		text += " (reason: " + t.Why + ")"
	}
	return text
}

// cut shortens s to the rest of the line after used columns.
func (v view) cut(s string, used int) string {
	s = strings.Join(strings.Fields(s), " ")
	if v.width == 0 {
		return s
	}
	room := max(20, v.width-indent-used-1)
	r := []rune(s)
	if len(r) <= room {
		return s
	}
	return string(r[:room-1]) + "…"
}

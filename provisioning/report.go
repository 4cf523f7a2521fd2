package provisioning

import (
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/azguest/azguest/ovf"
)

// DocumentationURL is part of every failure record; portals show it as a link.
const DocumentationURL = "https://aka.ms/linuxprovisioningerror"

// A Record is the encoded provisioning report: the value of the KVP key
// PROVISIONING_REPORT and the description of a NotReady
// (provisioning/SPEC.md §9.6).
type Record struct {
	OK     bool
	Reason string
	Agent  string // "azguest/1.2.3"
	Data   []Pair // supporting data of a failure, extras of a success
	PPS    PPSType
	VMID   string
	Time   time.Time
}

// ReportKey is the key of the record in the KVP pool.
const ReportKey = "PROVISIONING_REPORT"

// MaxReport is how many bytes of the record reach the host: the kernel's KVP
// channel keeps 1022 UTF-16 units, and each takes at least one byte.
const MaxReport = 1022

// Failure returns the record of an error.
func Failure(err error, agent, vmID string, pps PPSType, at time.Time) Record {
	rec := Record{Agent: agent, VMID: vmID, PPS: pps, Time: at, Reason: "unhandled error"}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		rec.Data = []Pair{{"code", CodeOf(err)}, {"error", errString(err)}}
		if doc, ok := errors.AsType[*ovf.Error](err); ok {
			rec.Reason, rec.Data = doc.Error(), rec.Data[:1]
		}
		return rec
	}
	rec.Reason = e.Reason
	rec.Data = append([]Pair{{"code", e.ID}}, e.Data...)
	if e.Err != nil {
		rec.Data = append(rec.Data, Pair{"error", errString(e.Err)})
	}
	if f, ok := errors.AsType[*Failed](err); ok && len(f.Errors) > 1 {
		for _, more := range f.Errors[1:] {
			rec.Data = append(rec.Data, Pair{"also", more.Error()})
		}
	}
	return rec
}

func errString(err error) string {
	if err == nil {
		return ""
	}
	return strings.ToValidUTF8(err.Error(), "?")
}

// Success returns the record of a provisioned machine.
func Success(agent, vmID string, pps PPSType, at time.Time, extra ...Pair) Record {
	return Record{OK: true, Agent: agent, VMID: vmID, PPS: pps, Time: at, Data: extra}
}

// Encode joins the fields as one CSV record with | between them and the quote
// character of cloud-init, in at most limit bytes. If it is too long,
// supporting data is cut or removed first, from its end, then the end of the
// reason. Runes are not split.
func (r Record) Encode(limit int) string {
	data := slices.Clone(r.Data)
	for {
		s := r.encode(data)
		if len(s) <= limit {
			return s
		}
		if n := len(data); n > 0 {
			// A shortened value is better than none.
			over := len(s) - limit
			if v := data[n-1].Value; len(v) > over+8 {
				data[n-1].Value = cutRunes(v, len(v)-over-8) + "…"
				if s = r.encode(data); len(s) <= limit {
					return s
				}
			}
			data = data[:n-1]
			continue
		}
		over := len(s) - limit
		if len(r.Reason) <= over {
			return cutRunes(s, limit)
		}
		r.Reason = cutRunes(r.Reason, len(r.Reason)-over)
	}
}

func (r Record) encode(data []Pair) string {
	fields := make([]Pair, 0, len(data)+7)
	add := func(k, v string) { fields = append(fields, Pair{k, v}) }
	pps := r.PPS
	if pps == "" {
		pps = PPSNone
	}
	id := r.VMID
	if id == "" {
		id = "None"
	}
	stamp := r.Time.UTC().Format("2006-01-02T15:04:05.000000-07:00")
	if r.OK {
		add("result", "success")
		add("agent", r.Agent)
		add("pps_type", string(pps))
		add("timestamp", stamp)
		add("vm_id", id)
		fields = append(fields, data...)
	} else {
		add("result", "error")
		add("reason", r.Reason)
		add("agent", r.Agent)
		fields = append(fields, data...)
		add("pps_type", string(pps))
		add("vm_id", id)
		add("timestamp", stamp)
		add("documentation_url", DocumentationURL)
	}
	out := make([]string, len(fields))
	for i, f := range fields {
		out[i] = quoteField(f.Key + "=" + f.Value)
	}
	return strings.Join(out, "|")
}

// quoteField is minimal CSV quoting with ' as the quote
// (provisioning/SPEC.md §9.6).
func quoteField(s string) string {
	if !strings.ContainsAny(s, "|'\r\n") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// DecodeReport splits an encoded record into its fields, for agentctl and
// tests.
func DecodeReport(s string) []Pair {
	var out []Pair
	for len(s) > 0 {
		var f string
		if s[0] == '\'' {
			var b strings.Builder
			i := 1
			for ; i < len(s); i++ {
				if s[i] == '\'' {
					if i+1 < len(s) && s[i+1] == '\'' {
						i++
					} else {
						break
					}
				}
				b.WriteByte(s[i])
			}
			f = b.String()
			s = s[min(i+1, len(s)):]
			s = strings.TrimPrefix(s, "|")
		} else {
			f, s, _ = strings.Cut(s, "|")
		}
		k, v, _ := strings.Cut(f, "=")
		out = append(out, Pair{k, v})
	}
	return out
}

// cutRunes returns at most n bytes of s and does not split a rune.
func cutRunes(s string, n int) string {
	if n >= len(s) {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:max(n, 0)]
}

// MaxDescription is how many bytes a description may have after escaping in
// the health report; the server accepts 4096 bytes for the whole report.
const MaxDescription = 3686

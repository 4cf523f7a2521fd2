package fabric

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/test/fabric/armtemplate"
)

// Kind is the purpose of a request. The same names select requests in faults
// and entries in the journal.
type Kind string

// The kinds of request the fabric knows.
const (
	Versions           Kind = "versions"                 // GET /?comp=versions
	GoalState          Kind = "goalstate"                // GET /machine/?comp=goalstate
	HostingEnvironment Kind = "hostingenvironmentconfig" // GET …type=hostingEnvironmentConfig
	SharedConfig       Kind = "sharedconfig"
	ExtensionsConfig   Kind = "extensionsconfig"
	FullConfig         Kind = "fullconfig"
	Certificates       Kind = "certificates"
	RemoteAccess       Kind = "remoteaccess"
	Health             Kind = "health"         // POST /machine?comp=health
	RoleProperties     Kind = "roleproperties" // POST /machine?comp=roleProperties
	Telemetry          Kind = "telemetry"      // POST /machine?comp=telemetrydata
	HealthService      Kind = "healthservice"  // POST /HealthService
	ProvisioningHealth Kind = "provisioninghealth"

	PluginVersions     Kind = "hostga.versions"
	PluginHealth       Kind = "hostga.health"
	VMSettings         Kind = "vmsettings"
	Artifact           Kind = "artifact"      // GET /extensionArtifact
	PluginStatus       Kind = "hostga.status" // PUT /status
	AgentLog           Kind = "vmagentlog"
	ImmediateGoalState Kind = "immediategoalstate"

	BlobGet Kind = "blob.get"
	BlobPut Kind = "blob.put"

	Metadata        Kind = "imds"
	ScheduledEvents Kind = "scheduledevents" // GET and POST /metadata/scheduledevents
	Control         Kind = "arm"

	// Status is not an endpoint: it is a complete status document that arrived
	// in the status blob, whether by direct upload or through the HostGAPlugin.
	Status Kind = "status"
	// Change is not an endpoint either: the platform changed the VM's goal
	// state.
	Change Kind = "change"
	// Maintenance is no endpoint: a scheduled event was scheduled, acknowledged,
	// started, completed or cancelled.
	Maintenance Kind = "event"

	Unknown Kind = "unknown"
)

// An Entry is one request with its answer, or another event (Status, Change).
type Entry struct {
	Seq     int               `json:"seq"`
	Began   time.Time         `json:"began,omitzero"` // when its headers had arrived; set for requests only
	Time    time.Time         `json:"time"`
	VM      string            `json:"vm,omitempty"`
	Service string            `json:"service,omitempty"`
	Kind    Kind              `json:"kind"`
	From    string            `json:"from,omitempty"`
	Method  string            `json:"method,omitempty"`
	URL     string            `json:"url,omitempty"` // byte-exact request target
	Host    string            `json:"host,omitempty"`
	Header  map[string]string `json:"header,omitempty"`
	Body    string            `json:"body,omitempty"`   // text bodies; long ones are cut
	Binary  int               `json:"binary,omitempty"` // size of a body that is not text
	Code    int               `json:"code,omitempty"`   // HTTP status of the answer; 0 when the connection was cut
	Fault   string            `json:"fault,omitempty"`  // the injected fault, if any
	// Problems lists violations that a strict platform would reject, although
	// this request was served.
	Problems []string       `json:"problems,omitempty"`
	Detail   map[string]any `json:"detail,omitempty"` // values read from the body
}

// maxJournalBody is the maximum size of a recorded body, so that the journal of
// a long run fits into memory.
const maxJournalBody = 256 << 10

type journal struct {
	mu      sync.Mutex // guards the fields below
	entries []Entry
	next    int
	keep    int
	changed chan struct{} // closed and replaced at each entry
	out     io.Writer
	outErr  error
}

func newJournal(out io.Writer, keep int) *journal {
	return &journal{next: 1, keep: keep, changed: make(chan struct{}), out: out}
}

func (j *journal) add(e Entry) {
	e.Time = time.Now().UTC()
	if len(e.Body) > maxJournalBody {
		e.Body = e.Body[:maxJournalBody]
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Seq = j.next
	j.next++
	j.entries = append(j.entries, e)
	if j.keep > 0 && len(j.entries) > j.keep {
		j.entries = slices.Delete(j.entries, 0, len(j.entries)-j.keep)
	}
	if j.out != nil && j.outErr == nil {
		line, err := json.Marshal(e)
		if err == nil {
			_, err = j.out.Write(append(line, '\n'))
		}
		j.outErr = err
	}
	close(j.changed)
	j.changed = make(chan struct{})
}

// wake wakes up waiters to check their conditions although nothing was
// received.
func (j *journal) wake() {
	j.mu.Lock()
	defer j.mu.Unlock()
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *journal) wait() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

// A Query selects journal entries; a zero field selects all.
type Query struct {
	Kind     Kind   // exact, or a prefix when it ends in "*"
	VM       string // name, any case
	Since    int    // entries with a larger Seq
	Contains string // text in URL or body
	Problems bool   // only entries with problems
	Limit    int    // only the last N entries
}

func (q Query) match(e Entry) bool {
	if prefix, ok := strings.CutSuffix(string(q.Kind), "*"); ok {
		if !strings.HasPrefix(string(e.Kind), prefix) {
			return false
		}
	} else if q.Kind != "" && q.Kind != e.Kind {
		return false
	}
	switch {
	case q.VM != "" && !strings.EqualFold(q.VM, e.VM),
		e.Seq <= q.Since,
		q.Contains != "" && !strings.Contains(e.URL, q.Contains) && !strings.Contains(e.Body, q.Contains),
		q.Problems && len(e.Problems) == 0:
		return false
	}
	return true
}

func parseQuery(v url.Values) (Query, error) {
	q := Query{Kind: Kind(v.Get("kind")), VM: v.Get("vm"), Contains: v.Get("contains")}
	if q.Kind != "" {
		if err := KnownKind(string(q.Kind), append(Kinds(), Events()...)); err != nil {
			return Query{}, fmt.Errorf("read journal query: %w", err)
		}
	}
	for name, field := range map[string]*int{"since": &q.Since, "limit": &q.Limit} {
		if s := v.Get(name); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil || n < 0 {
				return Query{}, fmt.Errorf("read %s of journal query: %q is not a number from 0 on", name, s)
			}
			*field = n
		}
	}
	if s := v.Get("problems"); s != "" {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return Query{}, fmt.Errorf("read problems of journal query: %w", err)
		}
		q.Problems = b
	}
	return q, nil
}

func (j *journal) find(q Query) []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	found := []Entry{}
	for _, e := range j.entries {
		if q.match(e) {
			found = append(found, e)
		}
	}
	if q.Limit > 0 && len(found) > q.Limit {
		found = found[len(found)-q.Limit:]
	}
	return found
}

// Journal returns the selected entries, oldest first.
func (f *Fabric) Journal(q Query) []Entry { return f.journal.find(q) }

// Requests returns how many requests of a kind this VM has sent, including
// those with a faulty answer.
func (v *VM) Requests(kind Kind) int {
	return len(v.f.journal.find(Query{Kind: kind, VM: v.name}))
}

// redacted replaces secrets in the journal.
const redacted = "[redacted]"

// withoutSecrets removes the secrets from a control plane request before it is
// recorded, because journals are kept and shared.
func withoutSecrets(body []byte) string {
	var v any
	d := json.NewDecoder(bytes.NewReader(armtemplate.ToJSON(body)))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return formWithoutSecrets(string(body))
	}
	var clean func(any)
	clean = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			withoutSecureParameters(v)
			for key, inner := range v {
				switch strings.ToLower(key) {
				case "protectedsettings", "protectedparameters", "runaspassword":
					v[key] = redacted
				default:
					clean(inner)
				}
			}
		case []any:
			for _, inner := range v {
				clean(inner)
			}
		}
	}
	clean(v)
	return string(encode(v))
}

// withoutSecureParameters redacts the values and default values of a
// deployment's secure parameters. A type that is defined elsewhere counts as
// secure.
func withoutSecureParameters(properties map[string]any) {
	template, _ := properties["template"].(map[string]any)
	declared, _ := template["parameters"].(map[string]any)
	given, _ := properties["parameters"].(map[string]any)
	for name, v := range declared {
		o, _ := v.(map[string]any)
		if !armtemplate.Secure(o) && o["$ref"] == nil {
			continue
		}
		if _, ok := o["defaultValue"]; ok {
			o["defaultValue"] = redacted
		}
		for key := range given {
			if strings.EqualFold(key, name) {
				given[key] = redacted
			}
		}
	}
}

// formWithoutSecrets redacts the secrets in the form of a login. Other bodies
// are returned unchanged.
func formWithoutSecrets(body string) string {
	fields := strings.Split(body, "&")
	for i, field := range fields {
		switch name, _, _ := strings.Cut(field, "="); name {
		case "client_secret", "client_assertion", "password", "refresh_token", "code":
			fields[i] = name + "=" + redacted
		}
	}
	return strings.Join(fields, "&")
}

// headers flattens a header for the journal; several values are joined.
func headers(h map[string][]string) map[string]string {
	out := make(map[string]string, len(h))
	for _, name := range slices.Sorted(maps.Keys(h)) {
		out[name] = strings.Join(h[name], ", ")
	}
	return out
}

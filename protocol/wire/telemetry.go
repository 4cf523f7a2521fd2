package wire

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/secret"
)

// maxBatch bounds the events of one POST: 64 KiB less the reserve that
// WALinuxAgent keeps (protocol/SPEC.md §11.1). The wrapper is not counted.
const maxBatch = 65536 - 1024

// Common are the parameters that every event carries. Empty ones are sent as
// <Name>_UNINITIALIZED, as the platform's own tools expect.
type Common struct {
	GAVersion         string // WALinuxAgent-x.y.z
	ContainerID       string
	OSVersion         string // Linux:<distribution>-<version>:<kernel>
	Architecture      string // x86_64, aarch64
	RAM               int64  // MB
	Processors        int
	TenantName        string
	RoleName          string
	RoleInstanceName  string
	Location          string
	SubscriptionID    string
	ResourceGroupName string
	VMID              string
	ImageOrigin       int
}

// A Batch is the body of one telemetry POST.
type Batch struct {
	Body   []byte
	Events int
}

// Telemetry packs events into bodies for comp=telemetrydata: one provider
// each, in order, below the size limit. Events that alone are too large are
// dropped and counted.
func Telemetry(evs []event.Event, c Common) (batches []Batch, dropped int) {
	type open struct {
		sb strings.Builder
		n  int
	}
	perProvider := map[string]*open{}
	var order []string
	flush := func(id string) {
		o := perProvider[id]
		if o == nil || o.n == 0 {
			return
		}
		body := `<?xml version="1.0"?><TelemetryData version="1.0"><Provider id="` + id + `">` + o.sb.String() + `</Provider></TelemetryData>`
		batches = append(batches, Batch{[]byte(body), o.n})
		perProvider[id] = &open{}
	}
	for _, e := range evs {
		id, text := Event(e, c)
		if len(text) >= maxBatch {
			dropped++
			continue
		}
		o := perProvider[id]
		if o == nil {
			o = &open{}
			perProvider[id] = o
			order = append(order, id)
		}
		if o.sb.Len()+len(text) >= maxBatch {
			flush(id)
			o = perProvider[id]
		}
		o.sb.WriteString(text)
		o.n++
	}
	for _, id := range order {
		flush(id)
	}
	return batches, dropped
}

// Event is one Event element and the provider it belongs to.
func Event(e event.Event, c Common) (provider, element string) {
	provider, id := e.Kind.Provider()
	var sb strings.Builder
	sb.WriteString(`<Event id="` + strconv.Itoa(id) + `"><![CDATA[`)
	str := func(name, v string) {
		sb.WriteString(`<Param Name="` + name + `" Value="` + esc(strings.ToValidUTF8(secret.Redact(v), "?")) + `" T="mt:wstr" />`)
	}
	typed := func(name, v, t string) {
		sb.WriteString(`<Param Name="` + name + `" Value="` + v + `" T="` + t + `" />`)
	}
	integer := func(name string, n int64) { typed(name, strconv.FormatInt(max(n, 0), 10), "mt:uint64") }
	known := func(name, v string) { str(name, cmp.Or(v, name+"_UNINITIALIZED")) }
	switch e.Kind {
	case event.Metric:
		str("Category", e.Category)
		str("Counter", e.Counter)
		str("Instance", e.Instance)
		typed("Value", strconv.FormatFloat(e.Value, 'f', -1, 64), "mt:float64")
	case event.Log:
		str("EventName", e.Name+"-"+e.Version)
		str("CapabilityUsed", e.Level)
		str("Context1", e.Message)
		str("Context2", e.Timestamp)
		str("Context3", e.OperationID)
	default:
		str("Name", e.Name)
		str("Version", e.Version)
		str("Operation", e.Op)
		ok := "False"
		if e.OK {
			ok = "True"
		}
		typed("OperationSuccess", ok, "mt:bool")
		str("Message", e.Message)
		integer("Duration", e.Duration.Milliseconds())
	}
	known("GAVersion", c.GAVersion)
	known("ContainerId", c.ContainerID)
	str("OpcodeName", e.Time.UTC().Format("2006-01-02T15:04:05.000000Z"))
	integer("EventTid", number(e.TID))
	integer("EventPid", number(e.PID))
	str("TaskName", e.Task)
	if id == 1 {
		str("ExtensionType", "")
		typed("IsInternal", "False", "mt:bool")
	}
	known("OSVersion", c.OSVersion)
	str("ExecutionMode", "IAAS")
	integer("RAM", c.RAM)
	integer("Processors", int64(c.Processors))
	str("KeywordName", `{"CpuArchitecture":"`+cmp.Or(c.Architecture, "unknown")+`"}`)
	known("TenantName", c.TenantName)
	known("RoleName", c.RoleName)
	known("RoleInstanceName", c.RoleInstanceName)
	known("Location", c.Location)
	known("SubscriptionId", c.SubscriptionID)
	known("ResourceGroupName", c.ResourceGroupName)
	known("VMId", c.VMID)
	integer("ImageOrigin", int64(c.ImageOrigin))
	sb.WriteString(`]]></Event>`)
	return provider, sb.String()
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// telemetryGap is the pause between two calls: the server accepts 15 calls in
// 15 s (protocol/SPEC.md §11.1), so one a second is always accepted.
const telemetryGap = time.Second

package fabric

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/test/fabric/pki"
)

// wireKind returns the kind of a request. Queries are compared without case, as
// the platform does for its own endpoints; sub-documents are matched exactly in
// wire.
func wireKind(r *request) Kind {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	q := r.URL.Query()
	comp := strings.ToLower(q.Get("comp"))
	switch {
	case strings.EqualFold(path, "/provisioning/health"):
		return ProvisioningHealth
	case strings.EqualFold(strings.TrimSuffix(path, "/"), "/HealthService"):
		return HealthService
	case path == "/" && comp == "versions":
		return Versions
	case strings.EqualFold(strings.TrimSuffix(path, "/"), "/machine"):
		switch comp {
		case "goalstate":
			return GoalState
		case "health":
			return Health
		case "roleproperties":
			return RoleProperties
		case "telemetrydata":
			return Telemetry
		}
	case strings.HasPrefix(path, "/machine/"):
		switch comp {
		case "certificates":
			return Certificates
		case "remoteaccessinfo":
			return RemoteAccess
		case "config":
			switch strings.ToLower(q.Get("type")) {
			case "hostingenvironmentconfig":
				return HostingEnvironment
			case "sharedconfig":
				return SharedConfig
			case "extensionsconfig":
				return ExtensionsConfig
			case "fullconfig":
				return FullConfig
			}
		}
	}
	return Unknown
}

// wireError returns an error document of the WireServer.
func wireError(code int, name, message string) *answer {
	return reply(code, "text/xml; charset=utf-8", fmt.Appendf(nil,
		`%s<Error xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema">
    <Code>%s</Code>
    <Message>%s</Message>
    <Details></Details>
</Error>`, xmlHead, name, esc(message)))
}

func (f *Fabric) wire(r *request) *answer {
	f.mu.Lock()
	defer f.mu.Unlock()

	var method string
	switch r.kind {
	case Health, RoleProperties, Telemetry, HealthService, ProvisioningHealth:
		method = http.MethodPost
	case Unknown:
		return wireError(http.StatusNotFound, "ResourceNotFound", "The resource "+r.RequestURI+" does not exist.")
	default:
		method = http.MethodGet
	}
	if r.Method != method {
		return wireError(http.StatusMethodNotAllowed, "UnsupportedHttpVerb", r.Method+" is not supported here.")
	}
	if r.Header.Get("X-Forwarded-For") != "" {
		return wireError(http.StatusForbidden, "Forbidden", "Requests through a proxy are refused.")
	}
	switch r.kind {
	case Versions:
		a := replyXML(versionsXML())
		if r.Header.Get("x-ms-version") != "" {
			a.problem("x-ms-version on the versions call")
		}
		return a
	case HealthService:
		return healthService(r)
	default: // the other calls need a VM
	}
	if r.vm == nil {
		return wireError(http.StatusNotFound, "ResourceNotFound", "There is no virtual machine.")
	}
	if r.kind == ProvisioningHealth {
		return r.vm.provisioningHealth(r)
	}
	if v := r.Header.Get("x-ms-version"); v != "2012-11-30" {
		if v == "" {
			return wireError(http.StatusBadRequest, "MissingRequiredHeader", "The header x-ms-version is missing.")
		}
		return wireError(http.StatusBadRequest, "InvalidHeaderValue", "The version "+v+" is not supported.")
	}
	var a *answer
	switch r.kind {
	case GoalState:
		a = r.vm.goalStateAnswer(r)
	case Health:
		a = r.vm.healthReport(r)
	case RoleProperties:
		a = r.vm.roleProperties(r)
	case Telemetry:
		a = r.vm.telemetryReport(r)
	default:
		a = r.vm.subDocument(r)
	}
	if r.Header.Get("x-ms-agent-name") == "" {
		a.problem("no x-ms-agent-name")
	}
	if method == http.MethodPost && !strings.HasPrefix(strings.ToLower(r.Header.Get("Content-Type")), "text/xml") {
		a.problem("Content-Type %q, want text/xml; charset=utf-8", r.Header.Get("Content-Type"))
	}
	return a
}

// ownURL is the fabric's base URL as the guest addressed it, so that documents
// contain an address that the guest can reach.
func ownURL(r *request) string {
	host := r.Host
	if !strings.Contains(host, ":") {
		host += ":80"
	}
	return "http://" + host
}

func (v *VM) goalStateAnswer(r *request) *answer {
	gs := *v.fabric
	gs.container, gs.configName, gs.cfg.Incomplete = v.container, v.configName, v.cfg.Incomplete
	gs.path = v.machinePath()
	a := replyXML(gs.goalStateXML(ownURL(r))).note("incarnation", gs.incarnation)
	if !strings.HasPrefix(r.RequestURI, "/machine/?") {
		a.problem("goal state requested with %s, want /machine/?comp=goalstate", r.RequestURI)
	}
	return a
}

// subDocument serves the documents that the goal state refers to. The request
// must use the URL exactly as issued, escapes included.
func (v *VM) subDocument(r *request) *answer {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	var gs *goalState
	for _, g := range v.documents {
		if g.path != path {
			continue
		}
		suffix := fmt.Sprintf("&incarnation=%d", g.incarnation)
		for _, want := range []string{
			"comp=config&type=hostingEnvironmentConfig", "comp=config&type=sharedConfig", "comp=config&type=extensionsConfig",
			"comp=config&type=fullConfig", "comp=certificates", "comp=remoteAccessInfo",
		} {
			if query == want+suffix {
				gs = g
			}
		}
	}
	if gs == nil {
		container, _, _ := strings.Cut(strings.TrimPrefix(path, "/machine/"), "/")
		if container == v.container {
			return wireError(http.StatusBadRequest, "InvalidUri", "The URL "+r.RequestURI+" was not handed out by this goal state.").
				problem("URL was changed by the client, or its incarnation is too old: %s", r.RequestURI)
		}
		return wireError(http.StatusGone, "ResourceGone", "The container "+container+" is not here any more.")
	}
	switch r.kind {
	case HostingEnvironment:
		return replyXML(v.hostingEnvironmentXML(gs))
	case SharedConfig:
		return replyXML(v.sharedConfigXML(gs))
	case ExtensionsConfig:
		return replyXML(v.extensionsConfigXML(gs))
	case FullConfig:
		return replyXML(xmlHead + `<FullConfig version="1.0.0.0" />`)
	case RemoteAccess:
		return v.remoteAccess(r, gs)
	default:
		return v.certificates(r, gs)
	}
}

var errNoCertificate = errors.New("no certificate in header")

// transportCertificate reads the certificate to which the client wants
// documents to be encrypted.
func transportCertificate(r *request) (*x509.Certificate, error) {
	text := r.Header.Get("x-ms-guest-agent-public-x509-cert")
	if text == "" {
		return nil, errNoCertificate
	}
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("read transport certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read transport certificate: %w", err)
	}
	return cert, nil
}

// transport reads certificate and cipher from a request for an encrypted
// document.
func (v *VM) transport(r *request) (*x509.Certificate, string, *answer) {
	cert, err := transportCertificate(r)
	if errors.Is(err, errNoCertificate) {
		return nil, "", wireError(http.StatusBadRequest, "MissingRequiredHeader", "The header x-ms-guest-agent-public-x509-cert is missing.")
	}
	if err != nil {
		return nil, "", wireError(http.StatusBadRequest, "InvalidHeaderValue", err.Error())
	}
	name := or(r.Header.Get("x-ms-cipher-name"), pki.Cipher3DES)
	if name != pki.CipherAES128 && name != pki.Cipher3DES {
		return nil, "", wireError(http.StatusBadRequest, "InvalidHeaderValue", "The cipher "+name+" is not supported.")
	}
	return cert, name, nil
}

func (v *VM) certificates(r *request, gs *goalState) *answer {
	cert, name, bad := v.transport(r)
	if bad != nil {
		return bad
	}
	cfg := v.cfg.Certificates
	if cfg.OnlyDES && name == pki.CipherAES128 {
		return wireError(http.StatusBadRequest, "InvalidHeaderValue", "The cipher "+name+" is not supported.")
	}
	var a *answer
	if cfg.None {
		a = replyXML(v.certificatesXML(gs, nil))
	} else {
		data, err := v.pfx(cfg.FIPS)
		if err == nil {
			data, err = pki.Encrypt(data, cert, name, pki.BySubjectKeyID)
		}
		if err != nil {
			return wireError(http.StatusInternalServerError, "InternalError", err.Error())
		}
		a = replyXML(v.certificatesXML(gs, data))
	}
	a.note("cipher", name).note("subject", cert.Subject.String()).note("thumbprint", pki.Thumbprint(cert.Raw))
	if len(cert.SubjectKeyId) == 0 {
		a.problem("transport certificate has no subject key identifier")
	} else if id, err := pki.PublicKeyID(cert); err == nil &&
		!bytes.Equal(id, cert.SubjectKeyId) {
		a.problem("subject key identifier is not SHA-1 of the public key")
	}
	return a
}

// pfx returns a PFX with all certificates of the VM: the tenant certificate,
// additional ones, and CRP's own without a key.
func (v *VM) pfx(fips bool) ([]byte, error) {
	if err := v.ensureTenant(); err != nil {
		return nil, err
	}
	crp, err := v.f.crpCertificate()
	if err != nil {
		return nil, err
	}
	entries := append([]*pki.Identity{crp}, v.extra...)
	return pki.EncodePFX(append(entries, v.tenant), fips)
}

// crpCertificate makes a new certificate each time; its key is discarded.
func (f *Fabric) crpCertificate() (*pki.Identity, error) {
	id, err := pki.NewIdentity("CRP", true)
	if err != nil {
		return nil, err
	}
	id.Key = nil
	return id, nil
}

func (v *VM) remoteAccess(r *request, gs *goalState) *answer {
	cert, name, bad := v.transport(r)
	if bad != nil {
		return bad
	}
	text, err := v.remoteAccessXML(gs, func(plain []byte) (string, error) {
		der, err := pki.Encrypt(plain, cert, name, pki.BySubjectKeyID)
		return base64.StdEncoding.EncodeToString(der), err
	})
	if err != nil {
		return wireError(http.StatusInternalServerError, "InternalError", err.Error())
	}
	return replyXML(text)
}

// maxDescription is the server's limit in bytes (protocol/SPEC.md §10.1).
const maxDescription = 4096

func (v *VM) healthReport(r *request) *answer {
	var doc struct {
		XMLName     xml.Name `xml:"Health"`
		Incarnation string   `xml:"GoalStateIncarnation"`
		Container   struct {
			ID    string `xml:"ContainerId"`
			Roles []struct {
				Instance string `xml:"InstanceId"`
				Health   struct {
					State   string `xml:"State"`
					Details *struct {
						SubStatus   string `xml:"SubStatus"`
						Description string `xml:"Description"`
					} `xml:"Details"`
				} `xml:"Health"`
			} `xml:"RoleInstanceList>Role"`
		} `xml:"Container"`
	}
	if err := decodeXML(r.body, &doc); err != nil {
		return wireError(http.StatusBadRequest, "InvalidXmlRequest", err.Error())
	}
	if len(doc.Container.Roles) == 0 {
		return wireError(http.StatusBadRequest, "InvalidXmlRequest", "The report names no role.")
	}
	role := doc.Container.Roles[0]
	if role.Health.State != "Ready" && role.Health.State != "NotReady" {
		return wireError(http.StatusBadRequest, "InvalidXmlRequest", "The state "+role.Health.State+" is unknown.")
	}
	a := reply(http.StatusOK, "", nil)
	if doc.Incarnation != fmt.Sprint(v.fabric.incarnation) {
		a.problem("health for incarnation %q, current is %d", doc.Incarnation, v.fabric.incarnation)
	}
	if doc.Container.ID != v.container {
		a.problem("health for container %q, current is %q", doc.Container.ID, v.container)
	}
	if role.Instance != v.instanceID() {
		a.problem("health for instance %q, want %q", role.Instance, v.instanceID())
	}
	var sub, description string
	if d := role.Health.Details; d != nil {
		sub, description = d.SubStatus, d.Description
		if role.Health.State == "Ready" {
			a.problem("Ready with Details")
		}
	}
	if len(description) > maxDescription {
		a.problem("description of %d bytes is truncated to %d", len(description), maxDescription)
		description = strings.ToValidUTF8(description[:maxDescription], "")
	}
	v.noteHealth(a, role.Health.State, sub, description)
	return a
}

func (v *VM) noteHealth(a *answer, state, sub, description string) {
	v.health = HealthReport{State: state, SubStatus: sub, Description: description, Time: time.Now().UTC(), Count: v.health.Count + 1}
	a.note("state", state)
	if sub != "" {
		a.note("subStatus", sub)
	}
	if description != "" {
		a.note("description", description)
	}
}

func decodeXML(body []byte, into any) error {
	d := xml.NewDecoder(bytes.NewReader(body))
	d.Strict = true
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("read xml: %w", err)
	}
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read xml: %w", err)
		}
		if _, ok := t.(xml.StartElement); ok {
			return errors.New("read xml: more than one root element")
		}
	}
}

func (v *VM) provisioningHealth(r *request) *answer {
	var doc struct {
		State   string `json:"state"`
		Details *struct {
			SubStatus   string `json:"subStatus"`
			Description string `json:"description"`
		} `json:"details"`
	}
	fail := func(message string) *answer {
		return replyJSON(http.StatusBadRequest, map[string]string{"error": message})
	}
	if err := json.Unmarshal(r.body, &doc); err != nil {
		return fail(err.Error())
	}
	if doc.State != "Ready" && doc.State != "NotReady" {
		return fail("unknown state " + doc.State)
	}
	a := reply(http.StatusCreated, "", nil)
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		a.problem("Content-Type %q, want application/json", r.Header.Get("Content-Type"))
	}
	if r.Header.Get("x-ms-guest-agent-name") == "" {
		a.problem("no x-ms-guest-agent-name")
	}
	var sub, description string
	if doc.Details != nil {
		sub, description = doc.Details.SubStatus, doc.Details.Description
	}
	v.noteHealth(a, doc.State, sub, description)
	return a
}

func (v *VM) roleProperties(r *request) *answer {
	var doc struct {
		XMLName   xml.Name `xml:"RoleProperties"`
		Container struct {
			ID        string `xml:"ContainerId"`
			Instances []struct {
				ID         string `xml:"Id"`
				Properties []struct {
					Name  string `xml:"name,attr"`
					Value string `xml:"value,attr"`
				} `xml:"Properties>Property"`
			} `xml:"RoleInstances>RoleInstance"`
		} `xml:"Container"`
	}
	if err := decodeXML(r.body, &doc); err != nil {
		return wireError(http.StatusBadRequest, "InvalidXmlRequest", err.Error())
	}
	a := reply(http.StatusAccepted, "", nil)
	for _, i := range doc.Container.Instances {
		for _, p := range i.Properties {
			a.note(p.Name, p.Value)
		}
	}
	if doc.Container.ID != v.container {
		a.problem("role properties for container %q, current is %q", doc.Container.ID, v.container)
	}
	return a
}

// Telemetry is limited to 15 calls in 15 seconds and to bodies of 64 KiB
// (protocol/SPEC.md §11.1).
const (
	telemetryCalls  = 15
	telemetryWindow = 15 * time.Second
	telemetryBody   = 65536
)

func (v *VM) telemetryReport(r *request) *answer {
	now := time.Now()
	v.telemetry = slices.DeleteFunc(v.telemetry, func(t time.Time) bool { return now.Sub(t) >= telemetryWindow })
	if len(v.telemetry) >= telemetryCalls {
		return wireError(http.StatusTooManyRequests, "TooManyRequests", "Telemetry is limited to 15 calls in 15 seconds.")
	}
	v.telemetry = append(v.telemetry, now)

	var doc struct {
		XMLName   xml.Name `xml:"TelemetryData"`
		Version   string   `xml:"version,attr"`
		Providers []struct {
			ID     string `xml:"id,attr"`
			Events []struct {
				ID   string `xml:"id,attr"`
				Text string `xml:",chardata"`
			} `xml:"Event"`
		} `xml:"Provider"`
	}
	if err := decodeXML(r.body, &doc); err != nil {
		return wireError(http.StatusBadRequest, "InvalidXmlRequest", err.Error())
	}
	a := reply(http.StatusOK, "", nil)
	if len(r.body) > telemetryBody {
		a.problem("telemetry of %d bytes, the limit is %d", len(r.body), telemetryBody)
	}
	if len(doc.Providers) != 1 {
		a.problem("%d providers in one telemetry call, want 1", len(doc.Providers))
	}
	events := []map[string]string{}
	for _, p := range doc.Providers {
		for _, e := range p.Events {
			event := map[string]string{"providerId": p.ID, "eventId": e.ID}
			var params struct {
				Params []struct {
					Name  string `xml:"Name,attr"`
					Value string `xml:"Value,attr"`
					Type  string `xml:"T,attr"`
				} `xml:"Param"`
			}
			if err := decodeXML([]byte("<e>"+e.Text+"</e>"), &params); err != nil {
				a.problem("event %s is not a list of Param: %v", e.ID, err)
			}
			for _, x := range params.Params {
				event[x.Name] = x.Value
				switch x.Type {
				case "mt:wstr", "mt:uint64", "mt:bool", "mt:float64", "":
				default:
					a.problem("parameter %s of unknown type %q", x.Name, x.Type)
				}
			}
			events = append(events, event)
		}
	}
	return a.note("events", events)
}

func healthService(r *request) *answer {
	var doc struct {
		API          string `json:"Api"`
		Version      string
		Source       string
		Observations []struct {
			ObservationName    string
			IsHealthy          bool
			Description, Value string
		}
	}
	if err := json.Unmarshal(r.body, &doc); err != nil {
		return replyJSON(http.StatusBadRequest, map[string]string{"error": err.Error()})
	}
	a := reply(http.StatusOK, "", nil)
	if doc.API != "reporttargethealth" || doc.Version != "1.0" {
		a.problem("Api %q Version %q, want reporttargethealth 1.0", doc.API, doc.Version)
	}
	if len(doc.Observations) > 10 {
		a.problem("%d observations, the limit is 10", len(doc.Observations))
	}
	observed := map[string]bool{}
	for _, o := range doc.Observations {
		observed[o.ObservationName] = o.IsHealthy
		if len(o.ObservationName) > 64 || len(o.Description) > 128 || len(o.Value) > 128 {
			a.problem("observation %s is too long", o.ObservationName)
		}
	}
	return a.note("observations", observed)
}

func replyJSON(code int, v any) *answer {
	b, err := json.Marshal(v)
	if err != nil {
		return reply(http.StatusInternalServerError, "text/plain", []byte(err.Error()))
	}
	return reply(code, "application/json; charset=utf-8", b)
}

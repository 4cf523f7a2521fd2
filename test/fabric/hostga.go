package fabric

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

func hostGAKind(r *request) Kind {
	switch path := strings.ToLower(strings.TrimSuffix(r.URL.Path, "/")); path {
	case "/versions":
		return PluginVersions
	case "/health":
		return PluginHealth
	case "/vmsettings":
		return VMSettings
	case "/extensionartifact":
		return Artifact
	case "/status":
		return PluginStatus
	case "/vmagentlog":
		return AgentLog
	case "/immediategoalstate":
		return ImmediateGoalState
	}
	return Unknown
}

// pluginError returns an error document of the HostGAPlugin.
func pluginError(code int, name, message string) *answer {
	b, _ := json.MarshalIndent(map[string]string{"errorCode": name, "message": message, "details": ""}, "", "  ") // strings can always be encoded
	return reply(code, "application/json; charset=utf-8", b)
}

func gone() *answer {
	return pluginError(http.StatusGone, "RequestRoleConfigFileNotFound", "The role config file of this container is not on this host.")
}

func invalidContainer() *answer {
	return pluginError(http.StatusBadRequest, "InvalidContainerConfiguration", "The container id or the host config name does not match this host.")
}

func (f *Fabric) hostGA(r *request) *answer {
	var method string
	switch r.kind {
	case PluginStatus, AgentLog:
		method = http.MethodPut
	case Unknown:
		return pluginError(http.StatusNotFound, "ResourceNotFound", "There is no "+r.URL.Path+".")
	default:
		method = http.MethodGet
	}
	if r.Method != method {
		return pluginError(http.StatusMethodNotAllowed, "MethodNotAllowed", r.Method+" is not supported here.")
	}
	if r.kind == PluginHealth {
		return reply(http.StatusOK, "application/json; charset=utf-8", []byte("{}"))
	}
	if r.vm == nil {
		return gone()
	}
	a, refused := r.vm.hostGAHeaders(r)
	if !refused {
		switch r.kind {
		case PluginVersions:
			a = join(a, reply(http.StatusOK, "application/json; charset=utf-8", []byte(`["2015-09-01"]`)))
		case VMSettings:
			a = join(a, r.vm.vmSettings(r))
		case Artifact:
			a = join(a, f.artifact(r))
		case PluginStatus:
			a = join(a, f.statusRelay(r))
		case AgentLog:
			a = join(a, r.vm.agentLog(r))
		default:
			a = join(a, r.vm.immediate(r))
		}
	}
	return a
}

// join prepends the problems that were found before the answer was made.
func join(before, a *answer) *answer {
	a.problems = append(before.problems, a.problems...)
	return a
}

// hostGAHeaders checks the headers that each call needs (protocol/SPEC.md
// §7.1). It reports whether the answer is final.
func (v *VM) hostGAHeaders(r *request) (*answer, bool) {
	v.f.mu.Lock()
	container, configName, deployment, stale := v.container, v.configName, v.deployment, v.cfg.StaleCode
	known := v.configNames[r.Header.Get("x-ms-host-config-name")] && !v.cfg.StrictConfigName
	v.f.mu.Unlock()

	a := &answer{}
	outdated := func(header, got, want string) (*answer, bool) {
		answer := gone()
		if r.kind != VMSettings && stale == http.StatusBadRequest {
			answer = invalidContainer()
		}
		return answer.note("stale", fmt.Sprintf("%s %q, current is %q", header, got, want)), true
	}
	switch version := r.Header.Get("x-ms-version"); {
	case r.kind == PluginVersions && version != "":
		a.problem("x-ms-version on /versions")
	case r.kind == PluginVersions || version == "2015-09-01":
	case r.kind == ImmediateGoalState: // its required headers are unknown (protocol/SPEC.md §7.8)
		a.problem("x-ms-version %q, want 2015-09-01", version)
	default:
		return pluginError(http.StatusBadRequest, "InvalidHeader", "The header x-ms-version is missing or not 2015-09-01."), true
	}
	if got := r.Header.Get("x-ms-containerid"); got != container {
		switch {
		case got != "":
			if r.kind != PluginVersions {
				return outdated("x-ms-containerid", got, container)
			}
			a.problem("/versions for container %q, current is %q", got, container)
		case r.kind == PluginVersions, r.kind == ImmediateGoalState:
			a.problem("no x-ms-containerid")
		default:
			return pluginError(http.StatusBadRequest, "MissingRequiredHeader", "The header x-ms-containerid is missing."), true
		}
	}
	got := r.Header.Get("x-ms-host-config-name")
	switch r.kind {
	case VMSettings, Artifact, PluginStatus:
		if got == "" {
			return pluginError(http.StatusBadRequest, "MissingRequiredHeader", "The header x-ms-host-config-name is missing."), true
		}
		if got != configName && !known {
			return outdated("x-ms-host-config-name", got, configName)
		}
	case AgentLog:
		if got != "" {
			a.problem("x-ms-host-config-name on /vmAgentLog")
		}
		if d := r.Header.Get("x-ms-vmagentlog-deploymentid"); d != deployment {
			a.problem("x-ms-vmagentlog-deploymentid %q, want %q", d, deployment)
		}
		for _, name := range []string{"x-ms-client-name", "x-ms-client-version"} {
			if r.Header.Get(name) == "" {
				a.problem("no %s", name)
			}
		}
	default: // the other calls need no more headers
	}
	if (r.kind == VMSettings || r.kind == AgentLog) && r.Header.Get("x-ms-client-correlationid") == "" {
		a.problem("no x-ms-client-correlationid")
	}
	return a, false
}

// artifact fetches a blob for the guest; only blobs of this fabric are served.
func (f *Fabric) artifact(r *request) *answer {
	location := r.Header.Get("x-ms-artifact-location")
	if location == "" {
		return pluginError(http.StatusBadRequest, "MissingRequiredHeader", "The header x-ms-artifact-location is missing.")
	}
	inner, err := http.NewRequestWithContext(r.Context(), http.MethodGet, location, nil)
	account, path, ok := f.splitBlobURL(location)
	if err != nil || !ok {
		return pluginError(http.StatusBadGateway, "ArtifactNotReachable", "The location "+location+" is not reachable from the host.")
	}
	for _, name := range []string{"Range", "x-ms-range", "If-Range"} {
		if value := r.Header.Get(name); value != "" {
			inner.Header.Set(name, value)
		}
	}
	upstream := &request{Request: inner, vm: r.vm, kind: BlobGet}
	var a *answer
	if strings.HasPrefix(account, repositoryPrefix) {
		a = f.repositoryBlob(upstream, path)
	} else {
		a = f.store.serve(account, path, upstream)
	}
	if a.code != http.StatusOK && a.code != http.StatusPartialContent {
		return pluginError(http.StatusBadGateway, "UpstreamFailure", fmt.Sprintf("Storage answered %d.", a.code)).note("upstream", a.code)
	}
	a.note("location", location)
	if s := r.Header.Get("x-ms-verify-from-artifacts-blob"); s != "" {
		a.note("verify", s)
	}
	return a
}

// statusRelay carries out a PUT that the guest describes in JSON.
func (f *Fabric) statusRelay(r *request) *answer {
	var doc struct {
		Content *string `json:"content"`
		Headers []struct {
			Name  string `json:"headerName"`
			Value string `json:"headerValue"`
		} `json:"headers"`
		URI string `json:"requestUri"`
	}
	if err := json.Unmarshal(r.body, &doc); err != nil {
		return pluginError(http.StatusBadRequest, "InvalidRequestBody", err.Error())
	}
	var content []byte
	if doc.Content != nil {
		var err error
		if content, err = base64.StdEncoding.DecodeString(*doc.Content); err != nil {
			return pluginError(http.StatusBadRequest, "InvalidRequestBody", "content: "+err.Error())
		}
	}
	account, path, ok := f.splitBlobURL(doc.URI)
	inner, err := http.NewRequestWithContext(r.Context(), http.MethodPut, doc.URI, bytes.NewReader(content))
	if err != nil || !ok {
		return pluginError(http.StatusBadGateway, "UpstreamFailure", "The request URI "+doc.URI+" is not reachable from the host.")
	}
	var problems []string
	for _, h := range doc.Headers {
		inner.Header.Set(h.Name, h.Value)
		if strings.EqualFold(h.Name, "Content-Length") {
			if n, err := strconv.Atoi(h.Value); err != nil || n != len(content) {
				problems = append(problems, fmt.Sprintf("Content-Length %q for %d bytes", h.Value, len(content)))
			}
		}
	}
	if !strings.HasPrefix(strings.ToLower(r.Header.Get("Content-Type")), "application/json") {
		problems = append(problems, fmt.Sprintf("Content-Type %q, want application/json", r.Header.Get("Content-Type")))
	}
	up := f.store.serve(account, path, &request{Request: inner, body: content, vm: r.vm, kind: BlobPut})
	if up.code >= 300 {
		a := pluginError(http.StatusBadGateway, "UpstreamFailure", fmt.Sprintf("Storage answered %d.", up.code)).note("upstream", up.code)
		a.problems = append(problems, up.problems...)
		return a.problem("storage refused the replayed request: %s", up.header.Get("x-ms-error-code"))
	}
	a := reply(http.StatusOK, "", nil)
	a.problems = append(problems, up.problems...)
	f.blobWritten(a, account, path)
	return a
}

func (v *VM) agentLog(r *request) *answer {
	if len(r.body) == 0 {
		return pluginError(http.StatusBadRequest, "InvalidRequestBody", "The log is empty.")
	}
	a := reply(http.StatusOK, "", nil).note("bytes", len(r.body))
	if !bytes.HasPrefix(r.body, []byte("PK")) {
		a.problem("the log is not a zip file")
	}
	v.f.store.set("vmlogs", "/"+v.name+".zip", r.body)
	return a
}

// AgentLog returns the last log archive that the guest uploaded.
func (v *VM) AgentLog() ([]byte, bool) { return v.f.store.get("vmlogs", "/"+v.name+".zip") }

func (v *VM) immediate(r *request) *answer {
	v.f.mu.Lock()
	doc, etag := v.cfg.Immediate, v.etag
	v.f.mu.Unlock()
	if doc == nil {
		return pluginError(http.StatusNotFound, "ResourceNotFound", "There is no immediate goal state.")
	}
	var a *answer
	if r.Header.Get("If-None-Match") == etag {
		a = reply(http.StatusNotModified, "", nil)
	} else {
		a = reply(http.StatusOK, "application/json; charset=utf-8", doc)
	}
	a.header.Set("ETag", etag)
	return a
}

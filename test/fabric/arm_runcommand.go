package fabric

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// The handlers that implement run commands.
const (
	runCommandHandler = "Microsoft.CPlat.Core.RunCommandHandlerLinux" // managed run commands
	runCommandAction  = "Microsoft.CPlat.Core.RunCommandLinux"        // the run command action
	actionName        = "RunCommandLinux"
)

// transient reports whether the extension belongs to the run command action;
// those are not listed.
func (e *extension) transient() bool { return strings.EqualFold(e.handler(), runCommandAction) }

// acceptRunCommand converts a managed run command to settings of its handler
// (extensions/SPEC.md §17.6).
func (v *VM) acceptRunCommand(e *extension) (*extension, *apiError) {
	var p runCommandProperties
	raw, err := json.Marshal(e.body.Properties)
	if err == nil {
		err = json.Unmarshal(raw, &p)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "InvalidRequestContent", "The request content was invalid and could not be deserialized: '%v'.", err)
	}
	if len(p.Source) == 0 {
		return nil, refuse(http.StatusBadRequest, "InvalidParameter", "Required parameter 'source' is missing (null).")
	}
	public, secret := p.settings()
	e.settings = encode(public)
	if len(secret) > 0 {
		e.protected = encode(secret)
	}
	for _, name := range []string{"runAsPassword", "protectedParameters"} {
		delete(e.body.Properties, name) // never returned
	}
	e.publisher, e.kind = splitHandler(runCommandHandler)
	if refusal := v.newest(e, runCommandHandler); refusal != nil {
		return nil, refusal
	}
	return e, nil
}

// runCommandProperties are the properties of a managed run command, as clients
// send them.
type runCommandProperties struct {
	Source              map[string]any    `json:"source"`
	Parameters          []any             `json:"parameters"`
	ProtectedParameters []any             `json:"protectedParameters"`
	Async               bool              `json:"asyncExecution"`
	RunAsUser           string            `json:"runAsUser"`
	RunAsPassword       string            `json:"runAsPassword"`
	Timeout             json.Number       `json:"timeoutInSeconds"`
	OutputBlob          string            `json:"outputBlobUri"`
	ErrorBlob           string            `json:"errorBlobUri"`
	FailureIsDeployment bool              `json:"treatFailureAsDeploymentFailure"`
	SourceIdentity      map[string]string `json:"scriptUriManagedIdentity"`
	OutputIdentity      map[string]string `json:"outputBlobManagedIdentity"`
	ErrorIdentity       map[string]string `json:"errorBlobManagedIdentity"`
}

// settings returns the public and protected settings of the handler.
func (p runCommandProperties) settings() (public, secret object) {
	public = object{"source": p.Source, "asyncExecution": p.Async, "treatFailureAsDeploymentFailure": p.FailureIsDeployment}
	if p.Parameters != nil {
		public["parameters"] = p.Parameters
	}
	secret = object{}
	blob := func(uri, name, sasName string) {
		if uri == "" {
			return
		}
		plain, sas, _ := strings.Cut(uri, "?")
		public[name] = plain
		if sas != "" {
			secret[sasName] = "?" + sas
		}
	}
	blob(p.OutputBlob, "outputBlobUri", "outputBlobSASToken")
	blob(p.ErrorBlob, "errorBlobUri", "errorBlobSASToken")
	if p.RunAsUser != "" {
		public["runAsUser"] = p.RunAsUser
	}
	if p.Timeout != "" {
		public["timeoutInSeconds"] = p.Timeout
	}
	if p.RunAsPassword != "" {
		secret["runAsPassword"] = p.RunAsPassword
	}
	if p.ProtectedParameters != nil {
		secret["protectedParameters"] = p.ProtectedParameters
	}
	for name, identity := range map[string]map[string]string{
		"sourceSASTokenManagedIdentity": p.SourceIdentity, "outputBlobManagedIdentity": p.OutputIdentity, "errorBlobManagedIdentity": p.ErrorIdentity,
	} {
		if identity != nil {
			secret[name] = identity
		}
	}
	return public, secret
}

func encode(v any) json.RawMessage {
	b, _ := json.Marshal(v) // values decoded from JSON can be encoded
	return b
}

// newest selects the newest published version of a handler.
func (v *VM) newest(e *extension, handler string) *apiError {
	h := v.f.packages[strings.ToLower(handler)]
	if h == nil || len(h.versions) == 0 {
		publisher, kind := splitHandler(handler)
		return refuse(http.StatusNotFound, "ArtifactNotFound", "The VM extension with publisher '%s' and type '%s' could not be found.", publisher, kind)
	}
	versions := slices.SortedFunc(maps.Keys(h.versions), compareVersions)
	e.version = versions[len(versions)-1]
	e.multi = h.versions[e.version].multi
	return nil
}

// runView is the instance view of a managed run command. The handler writes it
// as JSON into its status message.
func (e *extension) runView() object {
	view := object{"executionState": "Pending", "executionMessage": "", "exitCode": 0, "output": "", "error": ""}
	if e.vm.status == nil {
		return view
	}
	row := e.vm.status.row(e.handler(), e.name, e.multi)
	if row == nil || row.Settings == nil {
		return view
	}
	status := row.Settings.Status.Status
	var said map[string]any
	if json.Unmarshal([]byte(status.Message.Message), &said) != nil {
		view["executionMessage"] = status.Message.Message
		view["executionState"] = map[string]string{"success": "Succeeded", "error": "Failed", "transitioning": "Running"}[status.Status]
		return view
	}
	maps.Copy(view, said)
	view["statuses"] = []any{}
	return view
}

// invokeRunCommand is the run command action: it runs the script now and
// answers with its output.
func (v *VM) invokeRunCommand(r *request) (*answer, *apiError) {
	var body struct {
		CommandID  string   `json:"commandId"`
		Script     []string `json:"script"`
		Parameters []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		} `json:"parameters"`
	}
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	if err := v.allowed(); err != nil {
		return nil, err
	}
	if body.CommandID != "RunShellScript" {
		return nil, refuse(http.StatusBadRequest, "InvalidParameter", "The entity was not found: command '%s'.", body.CommandID)
	}
	var old *extension
	for _, e := range v.extensions {
		if e.transient() {
			old = e
		}
	}
	if old != nil && old.pending() {
		return nil, refuse(http.StatusConflict, "Conflict", "Run command extension execution is in progress. Please wait for completion before invoking a run command.")
	}
	e := &extension{vm: v, name: actionName, body: resourceBody{
		Location:   v.f.opts.Location,
		Properties: map[string]json.RawMessage{"forceUpdateTag": encode(newGUID())}, // so that it always runs
	}}
	e.publisher, e.kind = splitHandler(runCommandAction)
	if err := v.newest(e, runCommandAction); err != nil {
		return nil, err
	}
	settings := object{"script": base64.StdEncoding.EncodeToString([]byte(strings.Join(body.Script, "\n")))}
	if len(body.Parameters) > 0 {
		settings["parameters"] = body.Parameters
	}
	e.settings = encode(settings)
	v.install(e, old)
	e.op.result = e.actionResult
	a := reply(http.StatusAccepted, "", nil)
	v.f.pollHeaders(r, a, e.op, true)
	return a, nil
}

func (e *extension) actionResult() any {
	values := []any{}
	row := e.vm.status.row(e.handler(), e.name, e.multi)
	if row != nil && row.Settings != nil {
		status := row.Settings.Status.Status
		item := statusView(status.Status, int(status.Code), status.Message.Message)
		values = append(values, item)
	}
	return object{"value": values}
}

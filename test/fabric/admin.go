package fabric

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// serveAdmin serves the emulator's own admin API, which has no counterpart on
// the platform:
//
//	GET    /_fabric/journal?kind=&vm=&since=&contains=&problems=&limit=
//	GET    /_fabric/problems
//	GET    /_fabric/await?for=CONDITION&vm=&timeout=30s
//	GET    /_fabric/faults            list
//	POST   /_fabric/faults            set one (a Fault)
//	DELETE /_fabric/faults[/ID]       remove one, or all
//	GET    /_fabric/vms               everything about the virtual machines
//	GET    /_fabric/vms/VM            one of them
//	PATCH  /_fabric/vms/VM            change its Config and announce it
//	POST   /_fabric/vms/VM/announce|migrate|hibernate|rotate|claim
//	GET    /_fabric/vms/VM/events     the scheduled events
//	POST   /_fabric/vms/VM/events     schedule one (an EventRequest)
//	DELETE /_fabric/vms/VM/events/ID  cancel one
//	PUT    /_fabric/vms/VM/userdata|vendordata  the body is the data
//	PATCH  /_fabric/vms/VM/tags       set tags; null removes one
//	GET    /_fabric/vms/VM/status     the last status document
//	GET    /_fabric/vms/VM/log        the last log archive
//	POST   /_fabric/rescan            look for new packages
//	GET    /_fabric/ca.pem            the authority of the https listeners
func (f *Fabric) serveAdmin(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(strings.TrimPrefix(r.URL.Path, "/_fabric"), "/"), "/")
	switch key := r.Method + " " + parts[0]; key {
	case "GET journal", "GET problems":
		f.serveJournal(w, r, parts[0] == "problems")
	case "GET await":
		f.serveAwait(w, r)
	case "GET faults":
		writeJSON(w, http.StatusOK, f.Faults())
	case "POST faults":
		f.serveNewFault(w, r)
	case "DELETE faults":
		id := 0
		if len(parts) > 1 {
			var err error
			if id, err = strconv.Atoi(parts[1]); err != nil {
				writeError(w, http.StatusBadRequest, fmt.Errorf("parse id of fault: %w", err))
				return
			}
		}
		if !f.RemoveFault(id) {
			writeError(w, http.StatusNotFound, fmt.Errorf("fault %d does not exist", id))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case "POST rescan":
		if err := f.Rescan(); err != nil {
			writeError(w, http.StatusInternalServerError, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case "GET ca.pem":
		ca, err := f.CACertificate()
		if err != nil {
			writeError(w, http.StatusInternalServerError, err)
			return
		}
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(ca) // the reader may be gone
	case "GET vms", "PATCH vms", "POST vms", "PUT vms", "DELETE vms":
		switch {
		case len(parts) > 1:
			f.serveVM(w, r, parts[1:])
		case r.Method == http.MethodGet:
			list := []object{}
			for _, v := range f.VMs() {
				list = append(list, v.summary())
			}
			writeJSON(w, http.StatusOK, list)
		default:
			writeError(w, http.StatusBadRequest, fmt.Errorf("%s does not name a virtual machine", r.URL.Path))
		}
	default:
		writeError(w, http.StatusNotFound, fmt.Errorf("unknown request %s %s", r.Method, r.URL.Path))
	}
}

func (f *Fabric) serveJournal(w http.ResponseWriter, r *http.Request, problems bool) {
	q, err := parseQuery(r.URL.Query())
	if err == nil {
		err = errors.Join(f.knownVM(q.VM), knownParameters(r.URL.Query(), "kind", "vm", "since", "contains", "problems", "limit"))
	}
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	q.Problems = q.Problems || problems
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	for _, e := range f.Journal(q) {
		if enc.Encode(e) != nil {
			return // the reader went away
		}
	}
}

func (f *Fabric) serveNewFault(w http.ResponseWriter, r *http.Request) {
	var fault Fault
	if err := decodeStrictly(r.Body, &fault); err != nil {
		writeError(w, http.StatusBadRequest, fmt.Errorf("read fault: %w", err))
		return
	}
	if err := f.knownVM(fault.VM); err != nil {
		writeError(w, http.StatusBadRequest, fmt.Errorf("set fault: %w", err))
		return
	}
	id, err := f.Fail(fault)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	writeJSON(w, http.StatusCreated, map[string]int{"id": id})
}

// decodeStrictly reads one JSON document whose fields are all known.
func decodeStrictly(r io.Reader, into any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil && d.More() {
		err = errors.New("there is something after the document")
	}
	if err == nil {
		return nil
	}
	// The decoder has no other way to tell which field it is.
	_, quoted, ok := strings.Cut(err.Error(), "unknown field ")
	name, uerr := strconv.Unquote(quoted)
	if !ok || uerr != nil {
		return err
	}
	var known []string
	for field := range reflect.TypeOf(into).Elem().Fields() {
		if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); field.IsExported() && tag != "-" {
			known = append(known, or(tag, field.Name))
		}
	}
	return OneOf("field", name, known...)
}

// knownVM returns an error if a virtual machine is named that does not exist.
func (f *Fabric) knownVM(name string) error {
	if name == "" || f.VM(name) != nil {
		return nil
	}
	var names []string
	for _, v := range f.VMs() {
		names = append(names, v.name)
	}
	return OneOf("virtual machine", name, names...)
}

// knownParameters returns an error if a query has other parameters than these.
func knownParameters(query url.Values, known ...string) error {
	for name := range query {
		if err := OneOf("parameter", name, known...); err != nil {
			return err
		}
	}
	return nil
}

func writeError(w http.ResponseWriter, code int, err error) {
	writeJSON(w, code, map[string]string{"error": err.Error()})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the reader may be gone
}

func (v *VM) summary() object {
	f := v.f
	f.mu.Lock()
	defer f.mu.Unlock()
	v.finishOperations()
	extensions := []object{}
	for _, e := range v.extensions {
		x := object{"name": e.name, "handler": e.handler(), "version": e.version, "seq": e.seq, "provisioningState": e.state, "multiConfig": e.multi}
		if e.failure != nil {
			x["error"] = e.failure
		}
		extensions = append(extensions, x)
	}
	cfg := v.cfg
	cfg.Users = slices.Clone(cfg.Users)
	for i := range cfg.Users {
		cfg.Users[i].Password = redacted
	}
	thumbprint := ""
	if v.tenant != nil {
		thumbprint = v.tenant.Thumbprint()
	}
	return object{
		"name": v.name, "id": v.id, "containerId": v.container, "configName": v.configName, "instanceId": v.instanceID(),
		"incarnation": v.incarnation, "etag": v.etag, "inSvdSeqNo": v.svdSeq, "address": v.address,
		"health": v.health, "statusReports": v.statuses, "extensions": extensions, "config": cfg, "tenantThumbprint": thumbprint,
		"resourceId": v.resourceID(), "tags": maps.Clone(v.tags), "userDataBytes": len(v.setup.UserData), "vendorDataBytes": len(v.setup.VendorData),
	}
}

func (f *Fabric) serveVM(w http.ResponseWriter, r *http.Request, parts []string) {
	fail := func(code int, err error) { writeJSON(w, code, map[string]string{"error": err.Error()}) }
	v := f.VM(parts[0])
	if v == nil {
		fail(http.StatusNotFound, f.knownVM(parts[0]))
		return
	}
	action := ""
	if len(parts) > 1 {
		action = parts[1]
	}
	var err error
	switch r.Method + " " + action {
	case "GET ":
	case "GET status":
		doc, n := v.StatusDocument()
		if n == 0 {
			fail(http.StatusNotFound, fmt.Errorf("%s has not reported status", v.name))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(doc) // the reader may be gone
		return
	case "GET log":
		data, ok := v.AgentLog()
		if !ok {
			fail(http.StatusNotFound, fmt.Errorf("%s has not uploaded its logs", v.name))
			return
		}
		w.Header().Set("Content-Type", "application/zip")
		_, _ = w.Write(data) // the reader may be gone
		return
	case "GET events", "POST events", "DELETE events":
		v.serveEvents(w, r, parts[2:])
		return
	case "PUT userdata", "PUT vendordata":
		err = v.putData(r.Body, action)
	case "PATCH tags":
		err = v.patchTags(r.Body)
	case "PATCH ":
		err = v.patchConfig(r.Body)
	case "POST announce":
		v.Announce(r.URL.Query().Get("fasttrack") == "true")
	case "POST migrate":
		v.Migrate(r.URL.Query().Get("quiet") == "true")
	case "POST hibernate":
		err = v.Hibernate()
	case "POST rotate":
		err = v.RotateCertificate()
	case "POST claim":
		var p Provisioning
		if err = decodeStrictly(r.Body, &p); err == nil {
			err = v.Claim(p)
		}
	default:
		fail(http.StatusNotFound, fmt.Errorf("unknown request %s %s", r.Method, r.URL.Path))
		return
	}
	if err != nil {
		fail(http.StatusBadRequest, err)
		return
	}
	writeJSON(w, http.StatusOK, v.summary())
}

// An EventRequest is a ScheduledEvent as the admin API takes it.
type EventRequest struct {
	Type        string   `json:"type"`
	Notice      Duration `json:"notice,omitempty"`
	Duration    Duration `json:"duration,omitempty"`
	Lasts       Duration `json:"lasts,omitempty"`
	Source      string   `json:"source,omitempty"`
	Description string   `json:"description,omitempty"`
	Resources   []string `json:"resources,omitempty"`
}

func (v *VM) serveEvents(w http.ResponseWriter, r *http.Request, rest []string) {
	switch {
	case r.Method == http.MethodGet && len(rest) == 0:
		writeJSON(w, http.StatusOK, v.ScheduledEvents())
	case r.Method == http.MethodDelete && len(rest) == 1:
		if err := v.CancelEvent(rest[0]); err != nil {
			writeError(w, http.StatusConflict, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPost && len(rest) == 0:
		var x EventRequest
		err := decodeStrictly(r.Body, &x)
		id := ""
		if err == nil {
			id, err = v.ScheduleEvent(ScheduledEvent{
				Type: x.Type, Notice: time.Duration(x.Notice), Duration: time.Duration(x.Duration), Lasts: time.Duration(x.Lasts),
				Source: x.Source, Description: x.Description, Resources: x.Resources,
			})
		}
		if err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		writeJSON(w, http.StatusCreated, map[string]string{"id": id})
	default:
		writeError(w, http.StatusNotFound, fmt.Errorf("unknown request %s %s", r.Method, r.URL.Path))
	}
}

// putData replaces the user data or the vendor data.
func (v *VM) putData(r io.Reader, which string) error {
	data, err := io.ReadAll(io.LimitReader(r, maxUserData+1))
	if err != nil {
		return fmt.Errorf("read data: %w", err)
	}
	if len(data) > maxUserData {
		return fmt.Errorf("%s has more than %d bytes", which, maxUserData)
	}
	if which == "vendordata" {
		v.SetVendorData(data)
	} else {
		v.SetUserData(data)
	}
	return nil
}

// patchTags sets the tags that a document has, and removes those that are null.
// Names that differ in nothing but case are the same tag, which keeps its name.
func (v *VM) patchTags(r io.Reader) error {
	var given map[string]*string
	if err := json.NewDecoder(r).Decode(&given); err != nil {
		return fmt.Errorf("read tags: %w", err)
	}
	for name, value := range given {
		if value == nil {
			continue
		}
		if err := CheckTag(name, *value); err != nil {
			return err
		}
	}
	v.f.mu.Lock()
	tags := maps.Clone(v.tags)
	v.f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(given)) {
		value := given[name]
		for known := range tags {
			if strings.EqualFold(known, name) {
				name = known
			}
		}
		if value == nil {
			delete(tags, name)
		} else {
			tags[name] = *value
		}
	}
	v.SetTags(tags)
	return nil
}

// patchConfig changes the fields of the configuration that a document has, and
// announces them. A document that is refused changes nothing.
func (v *VM) patchConfig(r io.Reader) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	var given Config
	if err := decodeStrictly(bytes.NewReader(body), &given); err != nil {
		return err
	}
	if err := OneOf("status blob", or(given.StatusBlob, "BlockBlob"), "BlockBlob", "PageBlob"); err != nil {
		return err
	}
	v.Configure(func(c *Config) { err = json.Unmarshal(body, c) })
	return err
}

func (f *Fabric) serveAwait(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	c, err := ParseCondition(q.Get("for"))
	if err == nil {
		err = knownParameters(q, "for", "vm", "timeout")
	}
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	if err := f.knownVM(q.Get("vm")); err != nil {
		writeError(w, http.StatusNotFound, err)
		return
	}
	v := f.VM(q.Get("vm"))
	if q.Get("vm") == "" {
		if all := f.VMs(); len(all) > 0 {
			v = all[0]
		}
	}
	if v == nil {
		writeError(w, http.StatusNotFound, errors.New("there is no virtual machine"))
		return
	}
	timeout := 30 * time.Second
	if s := q.Get("timeout"); s != "" {
		if timeout, err = time.ParseDuration(s); err != nil || timeout < 0 {
			writeError(w, http.StatusBadRequest, fmt.Errorf("%q is not a time limit", s))
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	if err := v.Wait(ctx, c); err != nil {
		writeJSON(w, http.StatusRequestTimeout, map[string]any{"error": err.Error(), "vm": v.summary()})
		return
	}
	writeJSON(w, http.StatusOK, v.summary())
}

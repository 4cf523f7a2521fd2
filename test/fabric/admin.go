package fabric

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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
		f.RemoveFault(id)
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
	case "GET vms", "PATCH vms", "POST vms":
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
	if err := json.NewDecoder(r.Body).Decode(&fault); err != nil {
		writeError(w, http.StatusBadRequest, fmt.Errorf("read fault: %w", err))
		return
	}
	id, err := f.Fail(fault)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	writeJSON(w, http.StatusCreated, map[string]int{"id": id})
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
		"resourceId": v.resourceID(),
	}
}

func (f *Fabric) serveVM(w http.ResponseWriter, r *http.Request, parts []string) {
	fail := func(code int, err error) { writeJSON(w, code, map[string]string{"error": err.Error()}) }
	v := f.VM(parts[0])
	if v == nil {
		fail(http.StatusNotFound, fmt.Errorf("virtual machine %s does not exist", parts[0]))
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
	case "PATCH ":
		v.Configure(func(c *Config) {
			d := json.NewDecoder(r.Body)
			d.DisallowUnknownFields()
			changed := *c
			if err = d.Decode(&changed); err == nil {
				*c = changed
			}
		})
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
		if err = json.NewDecoder(r.Body).Decode(&p); err == nil {
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

func (f *Fabric) serveAwait(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	c, err := ParseCondition(q.Get("for"))
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	v := f.VM(q.Get("vm"))
	if q.Get("vm") == "" {
		if all := f.VMs(); len(all) > 0 {
			v = all[0]
		}
	}
	if v == nil {
		writeJSON(w, http.StatusNotFound, map[string]string{"error": "virtual machine " + q.Get("vm") + " does not exist"})
		return
	}
	timeout := 30 * time.Second
	if s := q.Get("timeout"); s != "" {
		if timeout, err = time.ParseDuration(s); err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
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

package fabric

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// An Extension is the request of Put.
type Extension struct {
	Name      string // of the resource; default the last part of the handler's name
	Handler   string // Publisher.Type
	Version   string // major.minor, or an exact version, of which the first two parts count
	Settings  any    // encoded as JSON; nil for none
	Protected any
	After     []string // provisionAfterExtensions
	// AutoUpgrade takes the newest minor version instead of the newest patch.
	AutoUpgrade bool
	// ForceUpdateTag changes to run again with the same settings.
	ForceUpdateTag   string
	SuppressFailures bool
}

// PutExtension creates or updates an extension through the control plane, on
// the same path as PUT …/extensions/name. The resource is named like the last
// part of the handler.
func (v *VM) PutExtension(handler, version string, settings any) error {
	return v.Put(Extension{Handler: handler, Version: version, Settings: settings})
}

// Put creates or updates an extension.
func (v *VM) Put(x Extension) error {
	publisher, kind := splitHandler(x.Handler)
	parts := strings.Split(x.Version, ".")
	p := object{"publisher": publisher, "type": kind, "typeHandlerVersion": strings.Join(parts[:min(2, len(parts))], "."), "autoUpgradeMinorVersion": x.AutoUpgrade}
	if x.Settings != nil {
		p["settings"] = x.Settings
	}
	if x.Protected != nil {
		p["protectedSettings"] = x.Protected
	}
	if x.After != nil {
		p["provisionAfterExtensions"] = x.After
	}
	if x.ForceUpdateTag != "" {
		p["forceUpdateTag"] = x.ForceUpdateTag
	}
	if x.SuppressFailures {
		p["suppressFailures"] = true
	}
	return v.call(http.MethodPut, or(x.Name, kind), object{"location": v.f.opts.Location, "properties": p})
}

// NextSequence makes seq the sequence number of the next settings of an
// extension, as if there had been others before. It must not decrease.
func (v *VM) NextSequence(handler, name string, seq int) {
	publisher, kind := splitHandler(handler)
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	e := &extension{vm: v, name: or(name, kind), publisher: publisher, kind: kind}
	v.f.seqs[e.sequenceKey()] = seq - 1
}

// DeleteExtension removes an extension by the name of its resource. The
// resource disappears once the guest no longer reports it.
func (v *VM) DeleteExtension(name string) error { return v.call(http.MethodDelete, name, nil) }

func (v *VM) call(method, name string, body any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encode extension: %w", err)
		}
	}
	path := v.resourceID() + "/extensions/" + url.PathEscape(name) + "?" + apiVersion
	inner, err := http.NewRequest(method, "http://"+ManagementHost+path, nil) //nolint:noctx // passed to control directly, not sent
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	a := v.f.control(&request{Request: inner, body: data, kind: Control})
	v.f.journal.add(Entry{VM: v.name, Service: string(ARM), Kind: Control, Method: method, URL: path, Code: a.code})
	if a.code < 300 {
		return nil
	}
	var e struct{ Error apiError }
	if json.Unmarshal(a.body, &e) != nil || e.Error.Code == "" {
		return errors.New(strings.TrimSpace(string(a.body)))
	}
	return fmt.Errorf("%s: %s", e.Error.Code, e.Error.Message)
}

// ProvisioningState returns the state of an extension, with the error of a
// failed one; empty if there is no such extension.
func (v *VM) ProvisioningState(name string) (state string, failure error) {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	v.finishOperations()
	e := v.extensionNamed(name)
	if e == nil {
		return "", nil
	}
	if e.failure != nil {
		failure = fmt.Errorf("%s: %s", e.failure.Code, e.failure.Message)
	}
	return e.state, failure
}

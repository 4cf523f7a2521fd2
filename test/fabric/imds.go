package fabric

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// imdsVersions are the supported api-versions. Others are answered with 400,
// after which cloud-init tries an older version.
func imdsVersions() []string {
	return []string{
		"2017-03-01", "2017-04-02", "2017-08-01", "2017-10-01", "2017-12-01", "2018-02-01", "2018-04-02", "2018-10-01",
		"2019-02-01", "2019-03-11", "2019-04-30", "2019-06-01", "2019-06-04", "2019-08-01", "2019-08-15", "2019-11-01",
		"2020-06-01", "2020-07-15", "2020-09-01", "2020-10-01", "2020-12-01", "2021-01-01", "2021-02-01", "2021-03-01",
		"2021-05-01", "2021-08-01", "2021-10-01", "2021-11-01", "2021-11-15", "2021-12-13", "2023-07-01", "2023-11-15", "2024-03-15", "2024-07-17", "2025-04-07",
	}
}

func imdsError(code int, message string) *answer {
	return replyJSON(code, map[string]any{"error": message})
}

const eventsPath = "metadata/scheduledevents"

func imdsPath(r *request) string { return strings.ToLower(strings.Trim(r.URL.Path, "/")) }

func (f *Fabric) imds(r *request) *answer {
	if !strings.EqualFold(r.Header.Get("Metadata"), "true") {
		return imdsError(http.StatusBadRequest, "Bad request. Required metadata header not specified")
	}
	if r.Header.Get("X-Forwarded-For") != "" {
		return imdsError(http.StatusBadRequest, "Bad request. Requests with X-Forwarded-For are not allowed")
	}
	path := imdsPath(r)
	if path == eventsPath {
		return f.scheduledEvents(r)
	}
	if r.Method != http.MethodGet {
		return imdsError(http.StatusMethodNotAllowed, "Method not allowed")
	}
	if path == "metadata/versions" {
		return replyJSON(http.StatusOK, map[string]any{"apiVersions": imdsVersions()})
	}
	version := r.URL.Query().Get("api-version")
	if version == "" || !slices.Contains(imdsVersions(), version) {
		a := replyJSON(http.StatusBadRequest, map[string]any{
			"error": "Bad request. api-version was not specified in the request or is not supported. For more information refer to aka.ms/azureimds",
			"newest-versions": func() []string {
				v := imdsVersions()
				slices.Reverse(v)
				return v[:3]
			}(),
		})
		return a.note("apiVersion", version)
	}
	if r.vm == nil {
		return imdsError(http.StatusNotFound, "Not found")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v := r.vm
	rest, isInstance := strings.CutPrefix(path, "metadata/instance")
	switch {
	case path == "metadata/reprovisiondata":
		if v.reprovis == nil {
			return imdsError(http.StatusNotFound, "Resource not found.")
		}
		return reply(http.StatusOK, "application/xml", v.reprovis)
	case isInstance && (rest == "" || rest[0] == '/'):
		return v.instanceMetadata(r, strings.Trim(rest, "/"))
	}
	return imdsError(http.StatusNotFound, "Not found")
}

// instanceMetadata returns the part of the document at path; as with the real
// service, a leaf needs format=text.
func (v *VM) instanceMetadata(r *request, path string) *answer {
	var node any = v.metadata(r.URL.Query().Get("extended") == "true")
	for part := range strings.SplitSeq(path, "/") {
		if part == "" {
			continue
		}
		switch n := node.(type) {
		case map[string]any:
			found := false
			for key, value := range n {
				if strings.EqualFold(key, part) {
					node, found = value, true
				}
			}
			if !found {
				return imdsError(http.StatusNotFound, "Not found")
			}
		case []any:
			var i int
			if _, err := fmt.Sscan(part, &i); err != nil || i < 0 || i >= len(n) {
				return imdsError(http.StatusNotFound, "Not found")
			}
			node = n[i]
		default:
			return imdsError(http.StatusNotFound, "Not found")
		}
	}
	text, leaf := node.(string)
	switch format := r.URL.Query().Get("format"); {
	case leaf && format == "text":
		return reply(http.StatusOK, "text/plain; charset=utf-8", []byte(text))
	case leaf:
		return imdsError(http.StatusNotFound, "The requested format is not supported. Use format=text")
	case format == "text":
		names := []string{}
		switch n := node.(type) {
		case map[string]any:
			for _, key := range sortedKeys(n) {
				if _, ok := n[key].(string); !ok {
					key += "/"
				}
				names = append(names, key)
			}
		case []any:
			for i := range n {
				names = append(names, fmt.Sprintf("%d/", i))
			}
		}
		return reply(http.StatusOK, "text/plain; charset=utf-8", []byte(strings.Join(names, "\n")))
	}
	return replyJSON(http.StatusOK, node)
}

func (v *VM) metadata(extended bool) map[string]any {
	o, p := v.f.opts, v.setup
	keys := []any{}
	for _, k := range p.SSHKeys {
		keys = append(keys, object{"keyData": k, "path": "/home/" + p.User + "/.ssh/authorized_keys"})
	}
	compute := object{
		"azEnvironment": "AzurePublicCloud", "customData": "", "isHostCompatibilityLayerVm": "false",
		"location": o.Location, "name": v.name, "offer": "fabric", "osType": "Linux",
		"osProfile": object{
			"adminUsername": p.User, "computerName": p.HostName, "disablePasswordAuthentication": fmt.Sprint(p.passwordsDisabled()),
		},
		"placementGroupId": "", "plan": object{"name": "", "product": "", "publisher": ""},
		"platformFaultDomain": "0", "platformUpdateDomain": "0", "provider": "Microsoft.Compute",
		"publicKeys": keys, "publisher": "azguest", "resourceGroupName": o.ResourceGroup, "resourceId": v.resourceID(),
		"securityProfile": object{"secureBootEnabled": "false", "virtualTpmEnabled": "false"},
		"sku":             "linux", "subscriptionId": o.Subscription, "tags": v.tagText(), "tagsList": v.tagList(),
		"userData": base64.StdEncoding.EncodeToString(p.UserData), "version": "1.0.0", "vmId": v.id, "vmScaleSetName": "", "vmSize": v.size, "zone": "",
	}
	if len(p.VendorData) > 0 {
		compute["vendorData"] = base64.StdEncoding.EncodeToString(p.VendorData)
	}
	doc := object{
		"compute": compute,
		"network": object{"interface": []any{object{
			"ipv4": object{
				"ipAddress": []any{object{"privateIpAddress": v.address, "publicIpAddress": ""}},
				"subnet":    []any{object{"address": subnetOf(v.address), "prefix": "24"}},
			},
			"ipv6":       object{"ipAddress": []any{}},
			"macAddress": v.mac,
		}}},
	}
	if extended {
		doc["extended"] = object{"compute": object{
			"hasCustomData": len(p.CustomData) > 0, "ppsType": or(p.PPSType, "None"),
		}}
	}
	return doc
}

func subnetOf(ip string) string {
	if i := strings.LastIndex(ip, "."); i >= 0 {
		return ip[:i] + ".0"
	}
	return ip
}

func (v *VM) tagText() string {
	var s []string
	for _, k := range sortedKeys(v.tags) {
		s = append(s, k+":"+v.tags[k])
	}
	return strings.Join(s, ";")
}

func (v *VM) tagList() []any {
	list := []any{}
	for _, k := range sortedKeys(v.tags) {
		list = append(list, object{"name": k, "value": v.tags[k]})
	}
	return list
}

// Claim assigns a pre-provisioned VM to a customer: reprovisiondata answers
// with the new provisioning document, and IMDS with the new values.
func (v *VM) Claim(p Provisioning) error {
	p.HostName = or(p.HostName, v.name)
	doc, err := OVFEnvironment(p, SpellingDVD)
	if err != nil {
		return err
	}
	v.f.mu.Lock()
	v.setup, v.reprovis = p, doc
	v.announce(false)
	v.f.mu.Unlock()
	v.f.journal.add(Entry{VM: v.name, Kind: Change, Time: time.Now(), Detail: map[string]any{"claimed": p.HostName}})
	return nil
}

// Package imds asks the instance metadata service (protocol/SPEC.md §13). It
// is a secondary source: nothing that the agent guarantees depends on it.
//
// imds.go has the instance document as the running agent uses it, newest.go as
// people and scripts get it, pps.go the requests of a first boot and of
// pre-provisioned machines, events.go the scheduled events. Requests go
// through protocol/internal/web; nothing else of protocol is needed.
package imds

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/web"
)

// Address is the fixed address of the service.
const Address = "169.254.169.254"

// A Client asks the service; every call ends within its patience.
type Client struct {
	web      *web.Client
	patience time.Duration

	eventsVersion atomic.Int32 // index of eventVersions
	eventsKnown   atomic.Bool  // there was an answer about scheduled events
}

// New makes a client. patience bounds one call, repetitions included.
func New(w *web.Client, patience time.Duration) *Client { return &Client{web: w, patience: patience} }

// Instance is what the service says about this machine.
type Instance struct {
	Compute Compute
	// MAC and Private are those of the first interface.
	MAC, Private string
}

// Compute describes the machine.
type Compute struct {
	Name, Location, SubscriptionID, ResourceGroup, VMID string
	Publisher                                           string // of the image
	// Admin, ComputerName and PasswordOff are from osProfile.
	Admin, ComputerName string
	PasswordOff         bool
	Keys                []Key
	UserData            secret.Secret // decoded; absent when there is none
	// NotBase64 are the fields of these two that could not be decoded.
	NotBase64  []string
	VendorData secret.Secret // the same; an extension of the protocol (protocol/SPEC.md §13.5)
}

// Key is a public key that the platform has for a user.
type Key struct{ Path, Data string }

// versions are tried in turn as long as the service answers 400.
var versions = [...]string{"2021-12-13", "2021-01-01", "2019-06-01", "2018-02-01"}

// Instance fetches the whole instance document, and returns it as it was sent,
// too.
func (c *Client) Instance(ctx context.Context) (i *Instance, doc []byte, err error) {
	if doc, err = c.get(ctx, "instance"); err != nil {
		return nil, nil, err
	}
	i, err = parseWhole(doc)
	return i, doc, err
}

// Alive checks that the service works, by asking for the first interface and
// its addresses. The whole document is not needed for that, and with user data
// it can be a hundred times as large.
func (c *Client) Alive(ctx context.Context) error {
	b, err := c.get(ctx, "instance/network")
	if err != nil {
		return err
	}
	i, err := Parse([]byte(`{"network":` + string(b) + `}`))
	if err != nil {
		return err
	}
	if i.MAC == "" || i.Private == "" {
		return &protocol.DocumentError{Doc: "metadata", Err: errors.New("no network interface with an address")}
	}
	return nil
}

func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := c.patient(ctx)
	defer cancel()
	for _, v := range versions {
		resp, err := c.ask(ctx, path, v, -1)
		if err != nil || resp.Status != http.StatusBadRequest {
			return body(resp, err)
		}
	}
	return nil, errVersions
}

// errVersions is the error of a service that knows none of the versions.
var errVersions = &protocol.DocumentError{Doc: "metadata", Err: errors.New("no supported API version")}

func (c *Client) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.patience, fmt.Errorf("metadata service: no answer in %v: %w", c.patience, context.DeadlineExceeded))
}

// ask asks for a part of the document in one version; 400 is an answer, too.
func (c *Client) ask(ctx context.Context, path, version string, tries int) (*web.Response, error) {
	return c.web.Do(ctx, web.Request{
		Op: "imds", URL: "http://" + Address + "/metadata/" + path + "?api-version=" + version, PerURL: true,
		Header: http.Header{"Metadata": {"true"}}, Tries: tries, Patience: c.patience, Timeout: min(c.patience, 5*time.Second), Limit: limits.Bytes,
		Expect: []int{http.StatusBadRequest},
	})
}

func body(resp *web.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// flag is a JSON boolean, or a string that contains one.
type flag bool

func (f *flag) UnmarshalJSON(b []byte) error {
	v, _ := strconv.ParseBool(strings.ToLower(strings.Trim(string(b), `"`)))
	*f = flag(v)
	return nil
}

// Parse reads the instance document. What is missing or of another type is
// empty.
func Parse(b []byte) (*Instance, error) {
	var doc struct {
		Compute struct {
			Name, Location, SubscriptionID, ResourceGroupName, VMID, Publisher, UserData, VendorData string

			OSProfile struct {
				AdminUsername, ComputerName   string
				DisablePasswordAuthentication flag
			}
			PublicKeys []struct{ Path, KeyData string }
		}
		Network struct {
			Interface []struct {
				MACAddress string
				IPv4       struct {
					IPAddress []struct{ PrivateIPAddress string }
				}
			}
		}
	}
	if err := limits.JSON(b); err != nil {
		return nil, &protocol.DocumentError{Doc: "metadata", Err: err}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok {
			return nil, &protocol.DocumentError{Doc: "metadata", Err: errors.New("not JSON")}
		}
	}
	d := doc.Compute
	out := &Instance{Compute: Compute{
		Name: d.Name, Location: d.Location, SubscriptionID: d.SubscriptionID, ResourceGroup: d.ResourceGroupName,
		VMID: d.VMID, Publisher: d.Publisher,
		Admin: d.OSProfile.AdminUsername, ComputerName: d.OSProfile.ComputerName, PasswordOff: bool(d.OSProfile.DisablePasswordAuthentication),
	}}
	for _, k := range d.PublicKeys {
		if k.KeyData != "" && len(out.Compute.Keys) < maxKeys {
			out.Compute.Keys = append(out.Compute.Keys, Key{k.Path, k.KeyData})
		}
	}
	for _, f := range []struct {
		name, text string
		to         *secret.Secret
	}{{"userData", d.UserData, &out.Compute.UserData}, {"vendorData", d.VendorData, &out.Compute.VendorData}} {
		b, err := base64.StdEncoding.DecodeString(f.text)
		switch {
		case err != nil:
			out.Compute.NotBase64 = append(out.Compute.NotBase64, f.name)
		case len(b) > 0:
			*f.to = secret.New(string(b))
		}
	}
	if len(doc.Network.Interface) > 0 {
		i := doc.Network.Interface[0]
		out.MAC = i.MACAddress
		if len(i.IPv4.IPAddress) > 0 {
			out.Private = i.IPv4.IPAddress[0].PrivateIPAddress
		}
	}
	return out, nil
}

// ImageOrigin is what telemetry calls the origin of the image: 1 for one
// without a publisher, 3 for one from the marketplace, 0 when not known.
func (i *Instance) ImageOrigin() int {
	switch {
	case i == nil:
		return 0
	case i.Compute.Publisher == "":
		return 1
	}
	return 3
}

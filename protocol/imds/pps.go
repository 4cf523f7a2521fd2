package imds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/web"
)

// API versions and bounds for the requests of pre-provisioned VMs
// (protocol/SPEC.md §13.1, §13.3).
const (
	extendedVersion    = "2021-08-01"
	plainVersion       = "2019-06-01" // available in every cloud
	reprovisionVersion = "2019-06-01"
	reprovisionLimit   = 4 << 20
	reprovisionTimeout = 30 * time.Second
)

// Extended is what the service says beyond the instance document.
type Extended struct {
	PPSType       string // None, Running, Savable, PreprovisionedOSDisk; "" if it does not say
	HasCustomData bool
}

// Extended asks once and quickly: a machine that boots waits for the answer.
func (c *Client) Extended(ctx context.Context, timeout time.Duration) (Extended, error) {
	b, err := c.once(ctx, extendedVersion+"&extended=true", timeout)
	if err != nil {
		return Extended{}, err
	}
	if _, err := parseWhole(b); err != nil {
		return Extended{}, err
	}
	return parseExtended(b)
}

// FirstBoot asks once for everything that a first boot needs. If the service
// does not know the extended document, the plain one is fetched instead and
// known is false.
func (c *Client) FirstBoot(ctx context.Context, timeout time.Duration) (i *Instance, x Extended, known bool, err error) {
	b, err := c.once(ctx, extendedVersion+"&extended=true", timeout)
	if se, ok := errors.AsType[*web.StatusError](err); ok && se.Status == http.StatusBadRequest {
		if b, err = c.once(ctx, plainVersion, timeout); err != nil {
			return nil, x, false, err
		}
		i, err = parseWhole(b)
		return i, x, false, err
	}
	if err != nil {
		return nil, x, false, err
	}
	if i, err = parseWhole(b); err != nil {
		return nil, x, false, err
	}
	x, err = parseExtended(b)
	return i, x, err == nil, err
}

// parseWhole is Parse for an answer that is not asked for again: a document that
// does not even say which machine it is about, such as an error or what the
// service gives out while it is starting, is no answer yet.
func parseWhole(b []byte) (*Instance, error) {
	i, err := Parse(b)
	if err == nil && i.Compute.VMID == "" && i.Compute.Name == "" {
		return nil, &protocol.DocumentError{Doc: "metadata", Err: errors.New("it has neither vmId nor name")}
	}
	return i, err
}

func (c *Client) once(ctx context.Context, version string, timeout time.Duration) ([]byte, error) {
	resp, err := c.web.Once(ctx, web.Request{
		Op: "imds", URL: "http://" + Address + "/metadata/instance?api-version=" + version,
		Header: http.Header{"Metadata": {"true"}}, Timeout: timeout, Limit: limits.Bytes,
	})
	if err != nil {
		return nil, fmt.Errorf("query metadata service: %w", err)
	}
	return resp.Body, nil
}

func parseExtended(b []byte) (Extended, error) {
	var doc struct {
		Extended struct {
			Compute struct {
				HasCustomData flag
				PPSType       string
			}
		}
	}
	if err := limits.JSON(b); err != nil {
		return Extended{}, &protocol.DocumentError{Doc: "metadata", Err: err}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok {
			return Extended{}, &protocol.DocumentError{Doc: "metadata", Err: errors.New("not JSON")}
		}
	}
	return Extended{doc.Extended.Compute.PPSType, bool(doc.Extended.Compute.HasCustomData)}, nil
}

// Reprovision asks once for the provisioning document of the owner that a
// pooled VM was assigned to. While the VM waits in its pool the result is an
// error like any other (404, 410, 429, 500, no connection): the caller repeats
// the call, as often as it likes.
func (c *Client) Reprovision(ctx context.Context) ([]byte, error) {
	resp, err := c.web.Once(ctx, web.Request{
		Op: "reprovisiondata", URL: "http://" + Address + "/metadata/reprovisiondata?api-version=" + reprovisionVersion,
		Header: http.Header{"Metadata": {"true"}}, Timeout: reprovisionTimeout, Limit: reprovisionLimit,
	})
	if err != nil {
		return nil, fmt.Errorf("fetch reprovisioning document: %w", err)
	}
	if len(bytes.TrimSpace(resp.Body)) == 0 {
		return nil, &protocol.DocumentError{Doc: "reprovisiondata", Err: errors.New("empty")}
	}
	return resp.Body, nil
}

package fabric

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// A Remote is a client of a running fabric program, by its admin address.
type Remote struct {
	URL  string // base URL: http://host:port; empty if Do is given whole URLs
	VM   string // name; default the first
	HTTP *http.Client
}

// Do sends a request to the admin API or the control plane and returns the body
// of a 2xx answer with its header. Other answers are a RemoteError.
func (c Remote) Do(ctx context.Context, method, path string, body any) ([]byte, http.Header, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return nil, nil, fmt.Errorf("encode request: %w", err)
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.URL, "/")+path, r)
	if err != nil {
		return nil, nil, fmt.Errorf("make request: %w", err)
	}
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := c.HTTP
	if client == nil {
		client = &http.Client{Transport: &http.Transport{Proxy: nil}}
	}
	resp, err := client.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil, fmt.Errorf("no fabric listens at %s: start one with fabric serve, or name its address with --admin: %w", c.URL, syscall.ECONNREFUSED)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("send request to the fabric: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("read answer of the fabric: %w", err)
	}
	if resp.StatusCode >= 300 {
		return data, resp.Header, &RemoteError{Status: resp.StatusCode, Body: strings.TrimSpace(string(data))}
	}
	return data, resp.Header, nil
}

// RemoteError is an answer of the fabric that is not 2xx.
type RemoteError struct {
	Status int
	Body   string
}

func (e *RemoteError) Error() string {
	text := e.Body
	var own struct{ Error string }
	var arm struct{ Error *apiError }
	switch {
	case json.Unmarshal([]byte(text), &own) == nil && own.Error != "":
		text = own.Error
	case json.Unmarshal([]byte(text), &arm) == nil && arm.Error != nil:
		text = arm.Error.Code + ": " + arm.Error.Message
	}
	return fmt.Sprintf("the fabric answered %d: %s", e.Status, text)
}

// vmPath finds the resource id of the VM.
func (c Remote) vmPath(ctx context.Context) (string, error) {
	path := "/_fabric/vms"
	data, _, err := c.Do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return "", err
	}
	var list []struct {
		Name string `json:"name"`
		ID   string `json:"resourceId"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return "", fmt.Errorf("read list of virtual machines: %w", err)
	}
	for _, v := range list {
		if c.VM == "" || strings.EqualFold(v.Name, c.VM) {
			return v.ID, nil
		}
	}
	var names []string
	for _, v := range list {
		names = append(names, v.Name)
	}
	return "", OneOf("virtual machine", c.VM, names...)
}

const apiVersion = "api-version=2024-07-01"

// PutExtension creates or updates an extension; body is the resource in ARM's
// JSON. With wait it polls the operation until it ends, and returns an error if
// it failed.
func (c Remote) PutExtension(ctx context.Context, name string, body []byte, wait bool) ([]byte, error) {
	return c.change(ctx, http.MethodPut, "extensions/"+url.PathEscape(name), body, wait)
}

// DeleteExtension removes an extension. With wait it polls the operation until
// it ends.
func (c Remote) DeleteExtension(ctx context.Context, name string, wait bool) error {
	_, err := c.change(ctx, http.MethodDelete, "extensions/"+url.PathEscape(name), nil, wait)
	return err
}

// GetExtension returns an extension with its instance view as JSON; with an
// empty name it lists all.
func (c Remote) GetExtension(ctx context.Context, name string) ([]byte, error) {
	vm, err := c.vmPath(ctx)
	if err != nil {
		return nil, err
	}
	path := vm + "/extensions"
	if name != "" {
		path += "/" + url.PathEscape(name)
	}
	data, _, err := c.Do(ctx, http.MethodGet, path+"?$expand=instanceView&"+apiVersion, nil)
	return data, err
}

func (c Remote) change(ctx context.Context, method, path string, body []byte, wait bool) ([]byte, error) {
	vm, err := c.vmPath(ctx)
	if err != nil {
		return nil, err
	}
	target := vm + "/" + path + "?" + apiVersion
	var in any
	if body != nil {
		in = body
	}
	data, header, err := c.Do(ctx, method, target, in)
	operation := header.Get("Azure-AsyncOperation")
	if err != nil || !wait || operation == "" {
		return data, err
	}
	u, err := url.Parse(operation)
	if err != nil {
		return nil, fmt.Errorf("read operation url: %w", err)
	}
	for {
		answer, _, err := c.Do(ctx, http.MethodGet, u.RequestURI(), nil)
		if err != nil {
			return nil, err
		}
		var op struct {
			Status string
			Error  *apiError
		}
		if err := json.Unmarshal(answer, &op); err != nil {
			return nil, fmt.Errorf("read operation: %w", err)
		}
		switch op.Status {
		case stateSucceeded:
			if method == http.MethodDelete {
				return nil, nil
			}
			data, _, err := c.Do(ctx, http.MethodGet, target+"&$expand=instanceView", nil)
			return data, err
		case stateFailed:
			if op.Error == nil {
				return nil, errors.New("operation failed without an error")
			}
			return nil, fmt.Errorf("operation failed: %s: %s", op.Error.Code, op.Error.Message)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for operation: %w", context.Cause(ctx))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

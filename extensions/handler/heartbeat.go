package handler

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
)

const (
	MaxHeartbeat  = 256 << 10
	maxBeatStatus = 64 // bytes; it is a single word
	// heartbeatAge is the age of a heartbeat from which on the handler counts as
	// unresponsive (extensions/SPEC.md §8.2).
	heartbeatAge = 600 * time.Second
)

// A Report is the handler-level part of a status row.
type Report struct {
	Status  string `json:"status,omitempty"` // such as Ready or NotReady; empty: not reported
	Code    int    `json:"code"`
	Message string `json:"message,omitempty"`
	Cause   string `json:"cause,omitempty"` // stable code; empty if there is no problem
}

// ReportOf returns the report of a handler that has a problem.
func ReportOf(p fault.Problem) Report {
	return Report{Status: "NotReady", Code: p.Code, Message: p.Text, Cause: p.Cause}
}

// Problem returns the problem in a report. A missing cause is derived from the
// code; with code 0 it stays empty.
func (r Report) Problem() fault.Problem {
	p := fault.Problem{Code: r.Code, Cause: r.Cause, Text: r.Message}
	if p.Cause == "" && p.Code != 0 {
		p.Cause = fault.CauseOfCode(p.Code)
	}
	return p
}

// A Beat is the content of heartbeat.log.
type Beat struct {
	Status  string
	Message *string
}

// ErrHeartbeat means that the content of heartbeat.log is invalid.
var ErrHeartbeat = errors.New("malformed heartbeat file")

// ParseHeartbeat parses the content of heartbeat.log. Errors wrap ErrHeartbeat;
// an empty array is an error, too.
func ParseHeartbeat(data []byte) (Beat, error) {
	data = lenientJSON(data)
	if err := heartbeatLimits.JSON(data); err != nil {
		return Beat{}, fmt.Errorf("%w: %w", ErrHeartbeat, err)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return Beat{}, fmt.Errorf("%w: %w", ErrHeartbeat, err)
	}
	if len(list) == 0 {
		return Beat{}, fmt.Errorf("%w: the array is empty", ErrHeartbeat)
	}
	first, err := object(list[0])
	if err != nil {
		return Beat{}, fmt.Errorf("%w: %w", ErrHeartbeat, err)
	}
	hb, err := object(first["heartbeat"])
	if err != nil || hb == nil {
		return Beat{}, fmt.Errorf("%w: no heartbeat object", ErrHeartbeat)
	}
	var b Beat
	var ok bool
	if b.Status, ok = Text(hb["status"]); !ok || b.Status == "" || len(b.Status) > maxBeatStatus {
		return Beat{}, fmt.Errorf("%w: no status", ErrHeartbeat)
	}
	b.Message, _, err = formatted(hb["formattedMessage"])
	if err != nil {
		return Beat{}, fmt.Errorf("%w: %w", ErrHeartbeat, err)
	}
	if b.Message != nil {
		m := cutMark(*b.Message, bigSubMessage)
		b.Message = &m
	}
	return b, nil
}

// An Age says how long ago a file was written.
type Age func(path string, fi fs.FileInfo) time.Duration

// WithHeartbeat returns the report of a handler with its heartbeat taken into
// account. Unlike WALinuxAgent it stores nothing, so the handler becomes ready
// again when the heartbeat comes back. After being enabled, which began enabled
// ago, a handler has heartbeatAge to write its first heartbeat.
func WithHeartbeat(r Report, path string, enabled time.Duration, age Age) Report {
	if r.Status != "Ready" {
		return r
	}
	data, fi, err := folder.Read(path, MaxHeartbeat)
	if errors.Is(err, fs.ErrNotExist) {
		if enabled < heartbeatAge {
			return r
		}
		return Report{Status: "NotReady", Code: fault.CodeOther, Message: "Failed to get heart beat file", Cause: fault.CauseUnresponsive}
	}
	var b Beat
	var old time.Duration
	if err == nil {
		old = age(path, fi)
		b, err = ParseHeartbeat(data)
		if err != nil && old < 5*time.Second {
			return r // being written
		}
	}
	if err != nil {
		return Report{Status: "NotReady", Code: fault.CodeOther, Message: "Malformed heartbeat file: " + secret.Redact(err.Error()), Cause: fault.CauseStatus}
	}
	if old > heartbeatAge {
		r.Status, r.Cause = "Unresponsive", fault.CauseUnresponsive
		return r
	}
	r.Status = b.Status
	if b.Status != "Ready" {
		r.Cause = fault.CauseReported
	}
	if b.Message != nil {
		r.Message = *b.Message
	}
	return r
}

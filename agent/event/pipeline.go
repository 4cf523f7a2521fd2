package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/azguest/azguest/agent/host"
)

// Limits of the extension telemetry pipeline (protocol/SPEC.md §11.4).
const (
	pipelineFile    = 4 << 20
	pipelineEvent   = 6144
	pipelineMessage = 3072
	pipelineEvents  = 360
)

// Limits of this agent: what handlers leave must not fill its memory. An event
// of the largest size takes a fraction of pipelineRaw however it is escaped,
// and no more than pipelineEvents are kept in each turn.
const (
	pipelineRaw   = 256 << 10
	pipelineNames = 4096 // files of one handler that are read in one turn
	pipelineTries = 10 * pipelineEvents
)

// Collected is the result of one collection from the events directories of
// handlers.
type Collected struct {
	Events []Event
	// Handlers has the number of events by handler.
	Handlers map[string]int
	Dropped  map[string]map[string]int // handler → reason → count
}

// CollectExtensions reads the events that handlers left in
// <logDir>/<handler>/events and empties those directories, which would grow
// without bound otherwise. If keep is false, the events are only removed.
//
// A handler may have given its folder to a service account, so everything is
// done on descriptors: only what is in the opened directory is read and
// removed, even if its name leads elsewhere meanwhile.
func CollectExtensions(logDir string, keep bool) (Collected, error) {
	out := Collected{Handlers: map[string]int{}, Dropped: map[string]map[string]int{}}
	logs, err := files.OpenDir(logDir, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("collect extension events: %w", err)
	}
	handlers, err := logs.ReadDir()
	errs := []error{err}
	for _, h := range handlers {
		if !h.IsDir() { // a link could lead anywhere
			continue
		}
		if err := out.handler(logs, h.Name(), keep); err != nil {
			errs = append(errs, fmt.Errorf("collect events of %s: %w", h.Name(), err))
		}
	}
	return out, errors.Join(append(errs, logs.Close())...)
}

// handler collects the events of one handler. A missing folder is the same as
// an empty one.
func (c *Collected) handler(logs *host.Dir, name string, keep bool) error {
	folder, err := logs.OpenDir(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer folder.Close()
	if fi, err := folder.Lstat("events"); err != nil || !fi.IsDir() {
		return nil //nolint:nilerr // there is no directory of events
	}
	events, err := folder.OpenDir("events")
	if err != nil {
		return err
	}
	return errors.Join(c.collect(name, events, keep), events.Close())
}

func (c *Collected) drop(handler, reason string) {
	if c.Dropped[handler] == nil {
		c.Dropped[handler] = map[string]int{}
	}
	c.Dropped[handler][reason]++
}

func (c *Collected) collect(handler string, dir *host.Dir, keep bool) error {
	names, err := newest(dir, pipelineNames)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	for _, n := range names {
		if keep && isEventFile(n) && c.Handlers[handler] < pipelineEvents {
			if b, _, rerr := dir.ReadBounded(n, pipelineFile); rerr != nil {
				c.drop(handler, "OversizeEventFile")
			} else {
				c.parse(handler, b, now)
			}
		}
		if rerr := dir.Remove(n); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) && err == nil {
			// A directory; it is not emptied. Only the first one is reported.
			err = rerr
		}
	}
	return err
}

// newest returns the names in a directory that sort last, in descending order.
// Files beyond the limit are removed, so that only a limited number of names is
// in memory.
func newest(dir *host.Dir, most int) ([]string, error) {
	var names []string
	err := dir.EachName(func(n string) {
		names = append(names, n)
		if len(names) < 2*most {
			return
		}
		names = cut(dir, names, most)
	})
	return cut(dir, names, most), err
}

func cut(dir *host.Dir, names []string, most int) []string {
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) })
	for _, n := range names[min(most, len(names)):] {
		_ = dir.Remove(n) // fails for a directory
	}
	return names[:min(most, len(names))]
}

// isEventFile reports whether a name is digits and .json.
func isEventFile(n string) bool {
	base, ok := strings.CutSuffix(n, ".json")
	return ok && base != "" && strings.Trim(base, "0123456789") == ""
}

func (c *Collected) parse(handler string, b []byte, now time.Time) {
	b = bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")))
	if !json.Valid(b) {
		c.drop(handler, "InvalidJSON")
		return
	}
	if b[0] != '[' {
		c.one(handler, b, now)
		return
	}
	// Decoded one by one: four megabytes may hold two million elements.
	dec := json.NewDecoder(bytes.NewReader(b))
	_, _ = dec.Token() // the bracket
	for tries := 0; dec.More() && c.Handlers[handler] < pipelineEvents; tries++ {
		var raw json.RawMessage
		if dec.Decode(&raw) != nil || tries >= pipelineTries {
			c.drop(handler, "InvalidJSON")
			return
		}
		c.one(handler, raw, now)
	}
}

func (c *Collected) one(handler string, raw json.RawMessage, now time.Time) {
	e, reason := pipelineOne(handler, raw, now)
	if reason != "" {
		c.drop(handler, reason)
		return
	}
	c.Handlers[handler]++
	c.Events = append(c.Events, e)
}

// pipelineOne parses one event; reason says why it is dropped.
func pipelineOne(handler string, raw json.RawMessage, now time.Time) (e Event, reason string) {
	if len(raw) > pipelineRaw {
		return e, "OversizeEventError"
	}
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if dec.Decode(&m) != nil || m == nil {
		return e, "InvalidJSON"
	}
	low := make(map[string]string, len(m))
	total := 0
	for k, v := range m {
		switch v := v.(type) {
		case string:
			low[strings.ToLower(k)] = strings.TrimSpace(v)
		case json.Number:
			low[strings.ToLower(k)] = v.String()
		default:
			low[strings.ToLower(k)] = ""
		}
	}
	for _, k := range []string{"Version", "Timestamp", "TaskName", "EventLevel", "Message", "EventPid", "EventTid", "OperationId"} {
		v, ok := low[strings.ToLower(k)]
		if !ok {
			return e, "MissingKeyError: " + k + " not found"
		}
		if k == "Message" {
			if v == "" {
				return e, "EmptyMessageError"
			}
			v = shorten(v, pipelineMessage)
			low["message"] = v
		}
		total += utf8.RuneCountInString(v)
	}
	if total > pipelineEvent {
		return e, "OversizeEventError"
	}
	return Event{
		Kind: Log, Time: now, Name: handler, Version: low["version"], Level: low["eventlevel"], Task: low["taskname"],
		Message: low["message"], Timestamp: low["timestamp"], OperationID: low["operationid"], PID: low["eventpid"], TID: low["eventtid"],
	}, ""
}

// shorten cuts s to n characters.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	i := 0
	for at := range s {
		if i == n {
			return s[:at]
		}
		i++
	}
	return s
}

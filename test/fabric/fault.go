package fabric

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Fault makes an endpoint misbehave. A Fault without an effect resets the
// connection of every request of its kind, which is rarely wanted: set at least
// one of the effects.
type Fault struct {
	ID int `json:"id,omitempty"` // given by the fabric

	// Selection of requests: kind (a path.Match pattern, so "*" is all), VM
	// name, and text that must occur in the request target or in the artifact
	// location.
	Kind  Kind   `json:"kind"`
	VM    string `json:"vm,omitempty"`
	Match string `json:"match,omitempty"`
	// Header limits the fault to requests that carry it: "x-ms-cipher-name: AES128_CBC".
	Header string `json:"header,omitempty"`

	// Frequency: skip the first requests, then affect a number of requests,
	// until a duration has passed since the fault was set, with a probability.
	// Zero means no limit, and for Probability always.
	Skip        int      `json:"skip,omitempty"`
	Times       int      `json:"times,omitempty"`
	For         Duration `json:"for,omitempty"`
	Probability float64  `json:"probability,omitempty"`
	Seed        uint64   `json:"seed,omitempty"` // random seed; the same one affects the same requests

	// Effects. Delay comes first and can be combined with all others.
	Delay       Duration          `json:"delay,omitempty"`
	Status      int               `json:"status,omitempty"`
	Body        *string           `json:"body,omitempty"`
	ContentType string            `json:"contentType,omitempty"`
	Set         map[string]string `json:"set,omitempty"`      // response headers to set; "" removes one
	Truncate    *int              `json:"truncate,omitempty"` // send this many bytes of the body under the full Content-Length, then cut
	Reset       bool              `json:"reset,omitempty"`    // cut the connection without an answer
	Rate        int               `json:"rate,omitempty"`     // bytes per second of the body
	Chunked     bool              `json:"chunked,omitempty"`  // no Content-Length
	// Apply processes the request before the faulty answer: for example, a
	// status that was stored and answered with 500.
	Apply bool `json:"apply,omitempty"`

	seen, applied int
	since         time.Time
	random        *rand.Rand
}

// Duration is a time.Duration whose JSON form is a string such as "1.5s".
type Duration time.Duration

// MarshalJSON writes the notation of time.ParseDuration.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON accepts the notation of time.ParseDuration, or a number of
// seconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var seconds float64
	if json.Unmarshal(b, &seconds) == nil {
		*d = Duration(seconds * float64(time.Second))
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("read duration: %w", err)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("read duration: %w", err)
	}
	*d = Duration(v)
	return nil
}

// String describes the effects, for the journal.
func (f *Fault) String() string {
	var s []string
	if f.Delay > 0 {
		s = append(s, "delay "+time.Duration(f.Delay).String())
	}
	if f.Apply {
		s = append(s, "after processing")
	}
	switch {
	case f.Reset:
		s = append(s, "reset")
	case f.Truncate != nil:
		s = append(s, fmt.Sprintf("cut after %d bytes", *f.Truncate))
	}
	if f.Status != 0 {
		s = append(s, fmt.Sprint(f.Status))
	}
	if f.Body != nil {
		s = append(s, "replaced body")
	}
	if f.ContentType != "" || len(f.Set) > 0 {
		s = append(s, "changed headers")
	}
	if f.Chunked {
		s = append(s, "no Content-Length")
	}
	if f.Rate > 0 {
		s = append(s, fmt.Sprintf("%d bytes/s", f.Rate))
	}
	return fmt.Sprintf("#%d %s", f.ID, strings.Join(s, ", "))
}

type faults struct {
	mu   sync.Mutex // guards the fields below
	list []*Fault
	next int
}

// headerName is a token of RFC 9110, section 5.6.2.
var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// Check returns an error for a fault that could never strike, or not as it says.
func (f *Fault) Check() error {
	if f.Kind == "" {
		return errors.New("the kind is missing")
	}
	if err := KnownKind(string(f.Kind), Kinds()); err != nil {
		return err
	}
	for _, n := range []struct {
		name  string
		value float64
	}{
		{"skip", float64(f.Skip)}, {"times", float64(f.Times)}, {"rate", float64(f.Rate)}, {"for", float64(f.For)}, {"delay", float64(f.Delay)},
	} {
		if n.value < 0 {
			return fmt.Errorf("%s is negative", n.name)
		}
	}
	name, _, _ := strings.Cut(f.Header, ":")
	switch {
	case f.Truncate != nil && *f.Truncate < 0:
		return errors.New("truncate is negative")
	case f.Probability < 0 || f.Probability > 1:
		return fmt.Errorf("probability %v is not between 0 and 1", f.Probability)
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("status %d is not between 200 and 599", f.Status)
	case f.Header != "" && !headerName.MatchString(strings.TrimSpace(name)):
		return fmt.Errorf("%q is not the name of a header", name)
	case f.Reset && (f.Status != 0 || f.Body != nil || f.ContentType != "" || len(f.Set) > 0 || f.Truncate != nil || f.Rate != 0 || f.Chunked):
		return errors.New("a connection that is reset has no answer to change")
	}
	for name := range f.Set {
		if !headerName.MatchString(name) {
			return fmt.Errorf("%q is not the name of a header", name)
		}
	}
	return nil
}

// Fail sets a fault and returns its id for RemoveFault. Faults are tried in the
// order in which they were set; only the first that matches a request applies.
func (f *Fabric) Fail(fault Fault) (int, error) {
	if err := fault.Check(); err != nil {
		return 0, fmt.Errorf("set fault: %w", err)
	}
	if fault.Status == 0 && fault.Body == nil && fault.ContentType == "" && len(fault.Set) == 0 &&
		fault.Truncate == nil && fault.Rate == 0 && fault.Delay == 0 && !fault.Chunked {
		fault.Reset = true
	}
	s := &f.faults
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	fault.ID = s.next
	fault.since = time.Now()
	fault.seen, fault.applied = 0, 0
	fault.random = rand.New(rand.NewPCG(fault.Seed, 0xfab)) //nolint:gosec // repeatable test data, not a key
	s.list = append(s.list, &fault)
	return fault.ID, nil
}

// RemoveFault removes a fault, or all of them when id is 0. It reports
// whether the id is one that was given.
func (f *Fabric) RemoveFault(id int) bool {
	f.faults.mu.Lock()
	defer f.faults.mu.Unlock()
	if id < 0 || id > f.faults.next {
		return false
	}
	f.faults.list = slices.DeleteFunc(f.faults.list, func(x *Fault) bool { return id == 0 || x.ID == id })
	return true
}

// Faults lists the faults that have not expired.
func (f *Fabric) Faults() []Fault {
	f.faults.mu.Lock()
	defer f.faults.mu.Unlock()
	out := []Fault{}
	for _, x := range f.faults.list {
		if !x.expired() {
			out = append(out, *x)
		}
	}
	return out
}

// Fail makes the next requests of kind from this VM answer status. With times 0
// it lasts until it is removed; with status 0 the connection is reset.
func (v *VM) Fail(kind Kind, status, times int) int {
	id, err := v.f.Fail(Fault{Kind: kind, VM: v.name, Status: status, Times: times, Reset: status == 0})
	if err != nil {
		panic("fabric: " + err.Error()) // a wrong constant in a test
	}
	return id
}

func (f *Fault) expired() bool {
	return f.Times > 0 && f.applied >= f.Times || f.For > 0 && time.Since(f.since) >= time.Duration(f.For)
}

// pick returns the fault to apply to this request, or nil.
func (s *faults) pick(kind Kind, vm string, r *http.Request) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, (*Fault).expired)
	for _, f := range s.list {
		if ok, _ := path.Match(string(f.Kind), string(kind)); !ok {
			continue
		}
		if f.VM != "" && !strings.EqualFold(f.VM, vm) {
			continue
		}
		if f.Match != "" && !strings.Contains(r.Host+r.RequestURI, f.Match) &&
			!strings.Contains(r.Header.Get("x-ms-artifact-location"), f.Match) {
			continue
		}
		if name, value, ok := strings.Cut(f.Header, ":"); f.Header != "" {
			got := r.Header.Values(strings.TrimSpace(name))
			if len(got) == 0 || ok && !slices.Contains(got, strings.TrimSpace(value)) {
				continue
			}
		}
		f.seen++
		if f.seen <= f.Skip {
			continue
		}
		if f.Probability > 0 && f.random.Float64() >= f.Probability {
			continue
		}
		f.applied++
		hit := *f
		return &hit
	}
	return nil
}

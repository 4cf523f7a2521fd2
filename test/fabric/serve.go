package fabric

import (
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxBody is the maximum size of a request body in bytes; agent logs are the
// largest.
const maxBody = 256 << 20

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

// A request is an HTTP request whose body has been read.
type request struct {
	*http.Request
	began time.Time
	body  []byte
	vm    *VM // nil only while the fabric has no VM
	kind  Kind
}

// An answer is a response under construction. Endpoints fill it; faults change
// it afterwards.
type answer struct {
	code     int
	header   http.Header
	body     []byte
	file     string // served instead of body, with support for ranges
	detail   map[string]any
	problems []string
}

func reply(code int, contentType string, body []byte) *answer {
	a := &answer{code: code, header: http.Header{}, body: body}
	if contentType != "" {
		a.header.Set("Content-Type", contentType)
	}
	return a
}

func replyXML(body string) *answer {
	return reply(http.StatusOK, "text/xml; charset=utf-8", []byte(body))
}

// problem records a violation that a strict platform would reject.
func (a *answer) problem(format string, args ...any) *answer {
	a.problems = append(a.problems, fmt.Sprintf(format, args...))
	return a
}

func (a *answer) note(key string, value any) *answer {
	if a.detail == nil {
		a.detail = map[string]any{}
	}
	a.detail[key] = value
	return a
}

func (f *Fabric) handler(s Service) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if s == ARM && strings.HasPrefix(r.URL.Path, "/_fabric") {
			f.serveAdmin(w, r)
			return
		}
		began := time.Now().UTC()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			f.journal.add(Entry{
				Began: began, Service: string(s), Kind: Unknown, Method: r.Method, URL: r.RequestURI,
				Problems: []string{"body did not arrive: " + err.Error()},
			})
			http.Error(w, "body did not arrive", http.StatusBadRequest)
			return
		}
		f.mu.Lock()
		f.lastRequest = time.Now()
		for _, v := range f.vms {
			v.advanceEvents()
		}
		f.mu.Unlock()
		f.answer(w, s, &request{Request: r, began: began, body: body, vm: f.vmOf(r)})
	})
}

func (f *Fabric) answer(w http.ResponseWriter, s Service, r *request) {
	handle, common := f.dispatch(s, r)
	vmName := ""
	if r.vm != nil {
		vmName = r.vm.name
	}
	if s == ARM {
		vmName = or(f.machineOfPath(r.URL.Path), vmName)
	}
	fault := f.faults.pick(r.kind, vmName, r.Request)
	if fault != nil && fault.Delay > 0 {
		select {
		case <-time.After(time.Duration(fault.Delay)):
		case <-r.Context().Done():
		}
	}
	var a *answer
	if fault == nil || fault.Apply || !fault.Reset && fault.Status == 0 {
		a = handle(r)
	} else if s == ARM && !fault.Reset {
		a = f.controlFault(fault.Status)
	} else {
		a = reply(fault.Status, "text/plain; charset=utf-8", []byte(http.StatusText(fault.Status)))
	}
	if fault != nil {
		fault.change(a)
	}
	a.problems = append(common, a.problems...)
	f.journal.add(journalEntry(s, r, a, vmName, fault))
	send(w, r.Request, a, fault)
}

// dispatch determines the kind of the request, the function that answers it,
// and the rules of the service that it breaks.
func (f *Fabric) dispatch(s Service, r *request) (handle func(*request) *answer, problems []string) {
	switch s {
	case Wire:
		r.kind = wireKind(r)
		return f.wire, hostChannelProblems(r)
	case HostGA:
		r.kind = hostGAKind(r)
		return f.hostGA, hostChannelProblems(r)
	case IMDS:
		r.kind = Metadata
		if imdsPath(r) == eventsPath {
			r.kind = ScheduledEvents
		}
		return f.imds, nil
	case Blob:
		r.kind = BlobPut
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			r.kind = BlobGet
		}
		return f.blob, nil
	default:
		r.kind = Control
		return f.control, nil
	}
}

// journalEntry builds the journal entry of a request and its answer.
func journalEntry(s Service, r *request, a *answer, vmName string, fault *Fault) Entry {
	e := Entry{
		Began: r.began, VM: vmName, Service: string(s), Kind: r.kind, From: r.RemoteAddr, Method: r.Method, URL: r.RequestURI, Host: r.Host,
		Header: headers(r.Header), Code: a.code, Problems: a.problems, Detail: a.detail,
	}
	switch {
	case s == Blob:
		e.VM = ""
	case s == ARM && e.Header["Authorization"] != "":
		e.Header["Authorization"] = redacted
	}
	switch {
	case len(r.body) == 0:
	case !utf8.Valid(r.body) || slices.Contains(r.body, 0):
		e.Binary = len(r.body)
	case s == ARM:
		e.Body = withoutSecrets(r.body)
	default:
		e.Body = string(r.body)
	}
	if fault != nil {
		e.Fault = fault.String()
		if fault.Reset {
			e.Code = 0
		}
	}
	return e
}

// hostChannelProblems checks the rules of the host's two services: no proxy, no
// compression (protocol/SPEC.md §2.1, §2.7).
func hostChannelProblems(r *request) []string {
	var p []string
	if r.UserAgent() == "" {
		p = append(p, "no User-Agent")
	}
	if e := r.Header.Get("Accept-Encoding"); e != "" && e != "identity" {
		p = append(p, "compression requested: Accept-Encoding "+e)
	}
	if r.Header.Get("Via") != "" || r.Header.Get("X-Forwarded-For") != "" {
		p = append(p, "sent through a proxy")
	}
	return p
}

func (f *Fault) change(a *answer) {
	if f.Status != 0 {
		a.code = f.Status
		if f.Apply {
			a.body, a.file = []byte(http.StatusText(f.Status)), ""
		}
	}
	if f.Body != nil {
		a.body, a.file = []byte(*f.Body), ""
	}
	if f.ContentType != "" {
		a.header.Set("Content-Type", f.ContentType)
	}
	for name, value := range f.Set {
		if value == "" {
			a.header.Del(name)
		} else {
			a.header.Set(name, value)
		}
	}
}

func send(w http.ResponseWriter, r *http.Request, a *answer, fault *Fault) {
	if fault != nil && fault.Reset {
		reset(w)
		return
	}
	maps.Copy(w.Header(), a.header)
	cut := fault != nil && (fault.Truncate != nil || fault.Rate > 0)
	if a.file != "" {
		if !cut && a.code == http.StatusOK {
			file, err := os.Open(a.file)
			if err == nil {
				defer file.Close()
				http.ServeContent(w, r, "", time.Time{}, file)
				return
			}
			a.code, a.body = http.StatusInternalServerError, []byte(err.Error())
		} else {
			a.body, _ = os.ReadFile(a.file) // an unreadable file is sent as an empty one
		}
	}
	if a.code == http.StatusNotModified || a.code == http.StatusNoContent {
		w.WriteHeader(a.code)
		return
	}
	chunked := fault != nil && fault.Chunked
	if a.header.Get("Content-Length") == "" && !chunked {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.code)
	if r.Method == http.MethodHead {
		return
	}
	if chunked {
		_ = http.NewResponseController(w).Flush() // an error shows in the next write
	}
	body := a.body
	if fault != nil && fault.Truncate != nil && *fault.Truncate < len(body) {
		body = body[:max(0, *fault.Truncate)]
	}
	if fault != nil && fault.Rate > 0 {
		sendSlowly(w, r, body, fault.Rate)
	} else {
		_, _ = w.Write(body) // the client may have disconnected
	}
	if len(body) < len(a.body) {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // how net/http cuts a connection
	}
}

func sendSlowly(w http.ResponseWriter, r *http.Request, body []byte, rate int) {
	const steps = 10 // per second
	chunk := max(1, rate/steps)
	for len(body) > 0 {
		n := min(chunk, len(body))
		if _, err := w.Write(body[:n]); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		body = body[n:]
		select {
		case <-time.After(time.Second / steps):
		case <-r.Context().Done():
			return
		}
	}
}

// reset closes the connection without an answer; over TCP the client sees a
// reset instead of an orderly end.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = conn.Close()
}

// vmOf returns the VM that a request concerns: the one bound to the listener or
// client, or with that source address or container, or else the first.
func (f *Fabric) vmOf(r *http.Request) *VM {
	if vm, ok := r.Context().Value(vmKey{}).(*VM); ok {
		return vm
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.vms) == 0 {
		return nil
	}
	if len(f.vms) > 1 {
		ip, _, _ := net.SplitHostPort(r.RemoteAddr)
		id := r.Header.Get("x-ms-containerid")
		for _, vm := range f.vms {
			if vm.address != "" && vm.address == ip {
				return vm
			}
		}
		for _, vm := range f.vms {
			if id != "" && id == vm.container || strings.Contains(r.RequestURI, vm.container) {
				return vm
			}
		}
	}
	return f.vms[0]
}

package fabric

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// store is blob storage: blobs by account and path, accessible with the shared
// access signatures that the fabric issued for them.
type store struct {
	mu     sync.Mutex // guards the fields below
	blobs  map[string]*storedBlob
	grants map[string]grant
}

type storedBlob struct {
	kind     string // BlockBlob, PageBlob or AppendBlob
	data     []byte
	etag     string
	modified time.Time
	content  string // content type
}

type grant struct {
	permissions string // letters of r, w, a, c, d
	query       string // as in the URL, percent-encoded
}

func newStore() *store { return &store{blobs: map[string]*storedBlob{}, grants: map[string]grant{}} }

// grant issues a signature for a blob; a second call for the same blob keeps
// the first.
func (s *store) grant(account, path, permissions string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := account + path
	if _, ok := s.grants[key]; ok {
		return
	}
	var sig [32]byte
	_, _ = rand.Read(sig[:]) // never fails since Go 1.24
	// Lower-case escapes and this order are the platform's.
	escaped := strings.NewReplacer("+", "%2b", "/", "%2f", "=", "%3d").Replace(base64.StdEncoding.EncodeToString(sig[:]))
	s.grants[key] = grant{permissions: permissions, query: "sv=2018-03-28&sr=b&sk=system-1&sig=" + escaped +
		"&se=9999-01-01T00%3a00%3a00Z&sp=" + permissions}
}

func (s *store) url(blobURL, account, path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := accountURL(blobURL, account) + path
	if g, ok := s.grants[account+path]; ok {
		u += "?" + g.query
	}
	return u
}

func accountURL(blobURL, account string) string {
	if strings.Contains(blobURL, "{account}") {
		return strings.ReplaceAll(blobURL, "{account}", account)
	}
	return blobURL + "/" + account
}

// set stores a block blob without a request.
func (s *store) set(account, path string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[account+path] = &storedBlob{kind: "BlockBlob", data: data, etag: blobETag(), modified: time.Now(), content: "application/octet-stream"}
}

func (s *store) get(account, path string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blobs[account+path]
	if b == nil {
		return nil, false
	}
	return slices.Clone(b.data), true
}

func blobETag() string { return fmt.Sprintf(`"0x8%015X"`, time.Now().UnixNano()) }

// SharedBlob creates a blob, for scripts and outputs of extensions, and returns
// its URL. permissions are letters of r, w, a, c, d. If data is nil, the blob
// is left to the guest to create.
func (f *Fabric) SharedBlob(path string, data []byte, permissions string) string {
	const account = "user"
	path = "/" + strings.TrimPrefix(path, "/")
	f.store.grant(account, path, permissions)
	if data != nil {
		f.store.set(account, path, data)
	}
	return f.store.url(f.opts.BlobURL, account, path)
}

// BlobContent returns the current content of a blob, by a SAS URL of the
// fabric.
func (f *Fabric) BlobContent(rawURL string) ([]byte, bool) {
	account, path, _ := f.splitBlobURL(rawURL)
	return f.store.get(account, path)
}

// splitBlobURL splits a blob URL; ok is false if the URL is not of this fabric.
func (f *Fabric) splitBlobURL(raw string) (account, path string, ok bool) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", "", false
	}
	want, err := url.Parse(strings.ReplaceAll(f.opts.BlobURL, "{account}", "ACCOUNT"))
	if err != nil || !strings.EqualFold(u.Scheme, want.Scheme) {
		return "", "", false
	}
	if before, after, found := strings.Cut(strings.ToLower(want.Host), "account"); found {
		host := strings.ToLower(u.Host)
		if !strings.HasPrefix(host, before) || !strings.HasSuffix(host, after) || len(host) <= len(before)+len(after) {
			return "", "", false
		}
		return host[len(before) : len(host)-len(after)], u.Path, true
	}
	if !strings.EqualFold(u.Host, want.Host) {
		return "", "", false
	}
	return splitAccount(strings.TrimPrefix(u.Path, want.Path))
}

func splitAccount(path string) (account, rest string, ok bool) {
	account, rest, ok = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return account, "/" + rest, ok
}

// blob serves a request to the storage listener.
func (f *Fabric) blob(r *request) *answer {
	var (
		account, path string
		ok            bool
	)
	if host := strings.ToLower(strings.Split(r.Host, ":")[0]); strings.HasSuffix(host, memoryDomain) {
		account, path, ok = strings.TrimSuffix(host, memoryDomain), r.URL.Path, true
	} else {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		account, path, ok = f.splitBlobURL(scheme + "://" + r.Host + r.URL.RequestURI())
		if !ok { // another host name: the account is in the path
			account, path, ok = splitAccount(r.URL.Path)
		}
	}
	if !ok {
		return blobError(http.StatusBadRequest, "InvalidUri", "The requested URI does not represent any resource on the server.")
	}
	if strings.HasPrefix(account, repositoryPrefix) {
		return f.repositoryBlob(r, path)
	}
	a := f.store.serve(account, path, r)
	if r.Method == http.MethodPut && a.code < 300 {
		f.blobWritten(a, account, path)
	}
	return a
}

func blobError(code int, name, message string) *answer {
	a := reply(code, "application/xml", fmt.Appendf(nil,
		"\ufeff%s<Error><Code>%s</Code><Message>%s\nRequestId:%s\nTime:%s</Message></Error>",
		strings.TrimSpace(xmlHead), name, esc(message), newGUID(), stamp(time.Now())))
	a.header.Set("x-ms-error-code", name)
	return a
}

func (s *store) serve(account, path string, r *request) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := account + path
	if a := s.authorize(key, r); a != nil {
		return a
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return s.read(key, r)
	case http.MethodPut:
		return s.write(key, r)
	case http.MethodDelete:
		if s.blobs[key] == nil {
			return blobError(http.StatusNotFound, "BlobNotFound", "The specified blob does not exist.")
		}
		delete(s.blobs, key)
		return reply(http.StatusAccepted, "", nil)
	}
	return blobError(http.StatusMethodNotAllowed, "UnsupportedHttpVerb", "The resource doesn't support specified Http Verb.")
}

// authorize requires every parameter of the issued signature with its value;
// more parameters (comp=page) are allowed.
func (s *store) authorize(key string, r *request) *answer {
	g, ok := s.grants[key]
	if !ok {
		return blobError(http.StatusNotFound, "ResourceNotFound", "The specified resource does not exist.")
	}
	want, err := url.ParseQuery(g.query)
	if err != nil {
		return blobError(http.StatusInternalServerError, "InternalError", err.Error())
	}
	got := r.URL.Query()
	if len(got) == 0 {
		return blobError(http.StatusConflict, "PublicAccessNotPermitted", "Public access is not permitted on this storage account.")
	}
	for name := range want {
		if len(got[name]) != 1 || got.Get(name) != want.Get(name) {
			return blobError(http.StatusForbidden, "AuthenticationFailed",
				"Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature.").
				problem("shared access signature: %s does not match", name)
		}
	}
	need := "r"
	switch r.Method {
	case http.MethodPut:
		need = "w"
		if strings.EqualFold(got.Get("comp"), "appendblock") {
			need = "aw"
		} else if strings.EqualFold(r.Header.Get("x-ms-blob-type"), "AppendBlob") {
			need = "cw"
		}
	case http.MethodDelete:
		need = "d"
	}
	if !strings.ContainsAny(g.permissions, need) {
		return blobError(http.StatusForbidden, "AuthorizationPermissionMismatch",
			"This request is not authorized to perform this operation using this permission.")
	}
	return nil
}

func (s *store) read(key string, r *request) *answer {
	b := s.blobs[key]
	if b == nil {
		return blobError(http.StatusNotFound, "BlobNotFound", "The specified blob does not exist.")
	}
	if r.Header.Get("If-None-Match") == b.etag {
		a := reply(http.StatusNotModified, "", nil)
		a.header.Set("ETag", b.etag)
		return a
	}
	a := reply(http.StatusOK, b.content, slices.Clone(b.data))
	a.header.Set("ETag", b.etag)
	a.header.Set("Last-Modified", b.modified.UTC().Format(http.TimeFormat))
	a.header.Set("x-ms-blob-type", b.kind)
	a.header.Set("Accept-Ranges", "bytes")
	return cutToRange(a, r)
}

// cutToRange reduces a whole blob to the requested range, unless If-Range names
// another version of the blob.
func cutToRange(a *answer, r *request) *answer {
	spec := or(r.Header.Get("x-ms-range"), r.Header.Get("Range"))
	if known := r.Header.Get("If-Range"); spec == "" || known != "" && known != a.header.Get("ETag") {
		return a
	}
	first, last, ok := parseRange(spec, len(a.body))
	if !ok {
		return blobError(http.StatusRequestedRangeNotSatisfiable, "InvalidRange", "The range specified is invalid for the current size of the resource.")
	}
	a.header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(a.body)))
	a.code, a.body = http.StatusPartialContent, a.body[first:last+1]
	return a
}

// parseRange parses bytes=first-last; last is optional.
func parseRange(spec string, size int) (first, last int, ok bool) {
	spec, found := strings.CutPrefix(spec, "bytes=")
	a, b, dash := strings.Cut(spec, "-")
	first, err := strconv.Atoi(a)
	if !found || !dash || err != nil || first < 0 || first >= size {
		return 0, 0, false
	}
	last = size - 1
	if b != "" {
		if last, err = strconv.Atoi(b); err != nil || last < first {
			return 0, 0, false
		}
		last = min(last, size-1)
	}
	return first, last, true
}

// Limits of a page blob: pages are 512 bytes, and one call writes at most 4
// MiB.
const (
	pageSize     = 512
	maxPageWrite = 4 << 20
	maxBlob      = 1 << 30
)

func (s *store) write(key string, r *request) *answer {
	if r.ContentLength < 0 {
		return blobError(http.StatusLengthRequired, "MissingContentLengthHeader", "Content-Length HTTP header is missing.")
	}
	b := s.blobs[key]
	var a *answer
	switch comp := strings.ToLower(r.URL.Query().Get("comp")); comp {
	case "page":
		a = b.writePage(r)
	case "appendblock":
		if b == nil {
			return blobError(http.StatusNotFound, "BlobNotFound", "The specified blob does not exist.")
		}
		if b.kind != "AppendBlob" {
			return blobError(http.StatusConflict, "InvalidBlobType", "The blob type is invalid for this operation.")
		}
		b.data = append(b.data, r.body...)
	case "":
		b, a = s.create(key, r)
	default:
		return blobError(http.StatusBadRequest, "InvalidQueryParameterValue", "Value for one of the query parameters specified in the request URI is invalid.")
	}
	if a != nil {
		return a
	}
	b.etag, b.modified = blobETag(), time.Now()
	a = reply(http.StatusCreated, "", nil)
	a.header.Set("ETag", b.etag)
	a.header.Set("Last-Modified", b.modified.UTC().Format(http.TimeFormat))
	if r.Header.Get("x-ms-version") == "" {
		a.problem("no x-ms-version on a write to storage")
	}
	return a
}

func (s *store) create(key string, r *request) (*storedBlob, *answer) {
	kind := r.Header.Get("x-ms-blob-type")
	b := &storedBlob{kind: kind, content: or(r.Header.Get("x-ms-blob-content-type"), or(r.Header.Get("Content-Type"), "application/octet-stream"))}
	if old := s.blobs[key]; old != nil && old.kind != kind && kind != "" {
		return nil, blobError(http.StatusConflict, "InvalidBlobType", "The blob type is invalid for this operation.")
	}
	switch kind {
	case "BlockBlob":
		b.data = bytes.Clone(r.body)
	case "AppendBlob", "PageBlob":
		if len(r.body) != 0 {
			return nil, blobError(http.StatusBadRequest, "InvalidHeaderValue", "Content-Length must be 0 when a "+kind+" is created.")
		}
		if kind == "AppendBlob" {
			break
		}
		size, err := strconv.Atoi(r.Header.Get("x-ms-blob-content-length"))
		if err != nil {
			return nil, blobError(http.StatusBadRequest, "MissingRequiredHeader", "x-ms-blob-content-length is missing or not a number.")
		}
		if size < 0 || size%pageSize != 0 || size > maxBlob {
			return nil, blobError(http.StatusBadRequest, "InvalidHeaderValue", "x-ms-blob-content-length must be a multiple of 512.")
		}
		b.data = make([]byte, size)
	case "":
		return nil, blobError(http.StatusBadRequest, "MissingRequiredHeader", "An HTTP header that's mandatory for this request is not specified: x-ms-blob-type.")
	default:
		return nil, blobError(http.StatusBadRequest, "InvalidHeaderValue", "x-ms-blob-type "+kind+" is unknown.")
	}
	s.blobs[key] = b
	return b, nil
}

func (b *storedBlob) writePage(r *request) *answer {
	switch {
	case b == nil:
		return blobError(http.StatusNotFound, "BlobNotFound", "The specified blob does not exist.")
	case b.kind != "PageBlob":
		return blobError(http.StatusConflict, "InvalidBlobType", "The blob type is invalid for this operation.")
	}
	first, last, ok := parseRange(or(r.Header.Get("x-ms-range"), r.Header.Get("Range")), len(b.data))
	length := last - first + 1
	if !ok || first%pageSize != 0 || length%pageSize != 0 {
		return blobError(http.StatusRequestedRangeNotSatisfiable, "InvalidPageRange", "The page range specified is invalid.")
	}
	switch strings.ToLower(r.Header.Get("x-ms-page-write")) {
	case "update":
		if length > maxPageWrite {
			return blobError(http.StatusRequestEntityTooLarge, "RequestBodyTooLarge", "The request body is too large and exceeds the maximum permissible limit.")
		}
		if len(r.body) != length {
			return blobError(http.StatusBadRequest, "InvalidHeaderValue", "The range is not as long as the content.")
		}
		copy(b.data[first:], r.body)
	case "clear":
		if len(r.body) != 0 {
			return blobError(http.StatusBadRequest, "InvalidHeaderValue", "Content-Length must be 0 to clear pages.")
		}
		clear(b.data[first : last+1])
	default:
		return blobError(http.StatusBadRequest, "MissingRequiredHeader", "An HTTP header that's mandatory for this request is not specified: x-ms-page-write.")
	}
	return nil
}

// blobWritten handles a finished write: a status blob that parses counts as a
// status report.
func (f *Fabric) blobWritten(a *answer, account, path string) {
	if account != statusAccount {
		return
	}
	f.mu.Lock()
	var vm *VM
	for _, v := range f.vms {
		if v.blobPath("status") == path {
			vm = v
		}
	}
	f.mu.Unlock()
	if vm == nil {
		return
	}
	data, ok := f.store.get(account, path)
	if !ok {
		return
	}
	vm.statusArrived(a, data)
}

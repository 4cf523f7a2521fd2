package transfer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/web"
)

// sink is a download in progress. When an attempt breaks off and the server
// named the version of the blob and takes ranges, the next attempt goes on
// where it ended, over whichever channel; else it starts anew.
type sink struct {
	f        *os.File
	sum      hash.Hash
	limit    int64
	asked    string // which blob the attempt asks for, see blobID
	from     string // which blob the bytes in the file are of
	n        int64  // bytes in the file
	etag     string // strong validator of the first answer, "" if none
	total    int64  // size the server announced, -1 if it did not
	restarts int

	progress func() // is called when another leastProgress bytes are there; may be nil
	mark     int64  // n at its last call
}

// maxRestarts is how often a download starts anew because the server's answer
// does not continue what was received.
const maxRestarts = 3

// of tells which blob the next attempt asks for. Another address may have
// another copy.
func (s *sink) of(u secret.URL) { s.asked = blobID(u) }

// received is how many bytes of a blob are there and can be continued.
func (s *sink) received(u secret.URL) int64 {
	if s == nil || s.etag == "" || s.from != blobID(u) {
		return 0
	}
	return s.n
}

// Header implements web.Sink.
func (s *sink) Header() http.Header {
	h := http.Header{}
	if s.Resumable() > 0 {
		h.Set("Range", fmt.Sprintf("bytes=%d-", s.n))
		h.Set("If-Range", s.etag)
	}
	return h
}

// Resumable implements web.Sink.
func (s *sink) Resumable() int64 {
	if s.etag == "" || s.from != s.asked {
		return 0
	}
	return s.n
}

// Restart implements web.Sink.
func (s *sink) Restart() bool {
	if s.Resumable() == 0 {
		return false
	}
	s.etag = ""
	s.restarts++
	return s.restarts <= maxRestarts
}

// Open implements web.Sink.
func (s *sink) Open(status int, h http.Header) (io.Writer, error) {
	if status == http.StatusPartialContent {
		from, total, ok := contentRange(h.Get("Content-Range"))
		if !ok || s.Resumable() == 0 || from != s.n || h.Get("Etag") != s.etag || s.total >= 0 && total != s.total {
			return nil, web.ErrRestart
		}
		s.total = total
		return s, nil
	}
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if err := s.f.Truncate(0); err != nil {
		return nil, err
	}
	s.sum.Reset()
	s.from, s.n, s.mark, s.etag, s.total = s.asked, 0, 0, "", -1
	if e := h.Get("Etag"); e != "" && !strings.HasPrefix(e, "W/") && strings.EqualFold(h.Get("Accept-Ranges"), "bytes") {
		s.etag = e
	}
	if n, err := parseSize(h.Get("Content-Length")); err == nil {
		s.total = n
		if n > s.limit {
			return nil, &web.SizeError{Limit: s.limit}
		}
	}
	return s, nil
}

func (s *sink) Write(p []byte) (int, error) {
	if s.n+int64(len(p)) > s.limit {
		return 0, &web.SizeError{Limit: s.limit}
	}
	n, err := s.f.Write(p)
	s.sum.Write(p[:n])
	if s.n += int64(n); s.progress != nil && s.n-s.mark >= leastProgress {
		s.mark = s.n
		s.progress()
	}
	return n, err
}

func (s *sink) complete() error {
	if s.total >= 0 && s.n != s.total {
		return fmt.Errorf("incomplete: %d of %d bytes", s.n, s.total)
	}
	return nil
}

func parseSize(s string) (int64, error) {
	var n int64
	_, err := fmt.Sscanf(s, "%d", &n)
	return n, err
}

// contentRange reads "bytes 5-9/10".
func contentRange(s string) (from, total int64, ok bool) {
	var to int64
	if _, err := fmt.Sscanf(s, "bytes %d-%d/%d", &from, &to, &total); err != nil {
		return 0, 0, false
	}
	return from, total, true
}

// leastProgress is how many bytes make a download one that makes progress.
const leastProgress = web.LeastProgress

// blobID stands for a blob: a hash of its address without the signature that
// authorises access, which changes.
func blobID(u secret.URL) string {
	name, _, _ := strings.Cut(u.Reveal(), "?")
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// A received file ends with partRecord bytes: a partState as JSON, filled up
// with spaces.
const partRecord = 4 << 10

// partState is what has to be known to continue a download. Whether the bytes
// are those that were received is seen from their digest, so they need not be
// synced to disk.
type partState struct {
	Blob   string `json:"blob"` // see blobID
	ETag   string `json:"etag"`
	Total  int64  `json:"total"` // bytes, -1 if not announced
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // of these
}

// openSink makes the file for a download, with what an earlier one has received.
// Its name is like that of all temporary files: if the agent is killed, the next
// start removes it (host.TempPattern).
func openSink(dir *host.Dir, base string, limit int64) (s *sink, tmp string, err error) {
	f, tmp, err := dir.CreateTemp(base)
	if err != nil {
		return nil, "", err
	}
	s = &sink{f: f, sum: sha256.New(), limit: limit, total: -1}
	old, err := dir.OpenFile(base+host.PartSuffix, os.O_RDWR, 0)
	if err != nil {
		return s, tmp, nil //nolint:nilerr // there is none, or none that can be used
	}
	s.f = old
	if err := s.resume(); err == nil {
		if err := dir.Rename(base+host.PartSuffix, dir, tmp); err == nil {
			return s, tmp, f.Close()
		}
	}
	_ = old.Close()
	_ = dir.Remove(base + host.PartSuffix)
	return &sink{f: f, sum: sha256.New(), limit: limit, total: -1}, tmp, nil
}

var errPart = errors.New("not what was received")

// resume takes over what the file has from an earlier download.
func (s *sink) resume() error {
	fi, err := s.f.Stat()
	if err != nil {
		return err
	}
	n := fi.Size() - partRecord
	if !fi.Mode().IsRegular() || n <= 0 || n > s.limit {
		return errPart
	}
	record := make([]byte, partRecord)
	if _, err := s.f.ReadAt(record, n); err != nil {
		return err
	}
	var st partState
	if err := json.Unmarshal(record, &st); err != nil {
		return err
	}
	if st.Bytes != n || st.ETag == "" || st.Total > s.limit {
		return errPart
	}
	if _, err := io.CopyN(s.sum, s.f, n); err != nil {
		return err
	}
	if hex.EncodeToString(s.sum.Sum(nil)) != st.SHA256 {
		return errPart
	}
	s.from, s.etag, s.total, s.n, s.mark = st.Blob, st.ETag, st.Total, n, n
	return s.f.Truncate(n) // the offset is there, too
}

// close ends a download with the given result. What was received is kept if it
// can be continued and there is hope of that.
func (s *sink) close(dir *host.Dir, tmp, base string, result error) error {
	if result == nil {
		return s.f.Close() // it has its name
	}
	kept := false
	if s.etag != "" && s.n >= leastProgress && !local(result) && protocol.OutlookOf(result, protocol.Later) == protocol.Later {
		kept = s.keep() == nil && dir.Rename(tmp, dir, base+host.PartSuffix) == nil
	}
	if !kept {
		_ = dir.Remove(tmp)
	}
	_ = s.f.Close() // result says what is wrong
	return nil
}

// keep adds the record to the file.
func (s *sink) keep() error {
	b, err := json.Marshal(partState{Blob: s.from, ETag: s.etag, Total: s.total, Bytes: s.n, SHA256: hex.EncodeToString(s.sum.Sum(nil))})
	if err != nil {
		return err
	}
	if len(b) > partRecord {
		return errPart
	}
	b = append(b, strings.Repeat(" ", partRecord-len(b))...)
	_, err = s.f.WriteAt(b, s.n)
	return err
}

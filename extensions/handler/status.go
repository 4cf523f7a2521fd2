package handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/protocol"
)

// Values of an extension's status.
const (
	Transitioning = "transitioning"
	Warning       = "warning"
	Success       = "success"
	Error         = "error"
)

// halfWritten is how long a file that can't be parsed may be one that is just
// being written: shell and Python handlers write in place.
const halfWritten = 3 * time.Second

// Limits of what is read and reported (extensions/SPEC.md §7.4).
const (
	MaxStatusFile  = 8 << 20
	bigStatus      = 128 << 10
	bigMessage     = 1024
	bigSubMessage  = 10240
	bigTotal       = 131072
	maxSubstatus   = 4096
	truncatedMark  = " ... [TRUNCATED]"
	excerptOfWrong = 2000
	maxCode        = 64
	maxWord        = 256 // of operation, name and time
)

var (
	errStatusJSON  = errors.New("not JSON")
	errStatusShape = errors.New("not a status")
)

// ParseStatus reads what a handler says about itself. What could be
// understood is returned with the error. An empty array or null is a status
// without a word (Status == "").
func ParseStatus(data []byte) (protocol.ExtensionStatus, error) {
	var st protocol.ExtensionStatus
	data = lenientJSON(data)
	if err := checkJSON(data); err != nil {
		return st, fmt.Errorf("%w: %w", errStatusJSON, err)
	}
	if string(data) == "null" {
		return st, nil
	}
	items, err := elements(data, 1)
	if err != nil {
		return st, fmt.Errorf("%w: the extension status must be an array: %s", errStatusShape, Clip(string(data), 4096))
	}
	if len(items) == 0 {
		return st, nil
	}
	first, err := fields(items[0], "status")
	if err != nil || first == nil {
		return st, fmt.Errorf("%w: element 0 of the array is not an object", errStatusShape)
	}
	body, err := fields(first["status"], "name", "operation", "configurationAppliedTime", "code", "status", "formattedMessage", "substatus")
	if err != nil || body == nil {
		return st, fmt.Errorf("%w: no status object", errStatusShape)
	}
	for field, dst := range map[string]*string{"name": &st.Name, "operation": &st.Operation, "configurationAppliedTime": &st.AppliedTime} {
		word, _ := Text(body[field])
		*dst = Clip(word, maxWord) // nothing cuts them later, and the platform refuses what is too long as a whole
	}
	st.Code = statusCode(body["code"])
	word, ok := Text(body["status"])
	if !ok {
		return st, fmt.Errorf("%w: status.status is missing", errStatusShape)
	}
	st.Status = statusWord(word)
	if st.Message, st.Lang, err = formatted(body["formattedMessage"]); err != nil {
		return st, err
	}
	return st, parseSubstatus(&st, body["substatus"])
}

// statusWord coerces unknown words to error: a handler that says "failed"
// has failed. Case matters.
func statusWord(w string) string {
	switch w {
	case Transitioning, Warning, Success, Error:
		return w
	}
	return Error
}

func parseSubstatus(st *protocol.ExtensionStatus, raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	subs, err := elements(raw, maxSubstatus)
	if err != nil {
		return fmt.Errorf("%w: substatus is not an array", errStatusShape)
	}
	total := 0
	for _, s := range subs {
		if string(s) == "null" {
			continue
		}
		o, err := fields(s, "name", "code", "status", "formattedMessage")
		if err != nil || o == nil {
			return fmt.Errorf("%w: substatus is not an object", errStatusShape)
		}
		var sub protocol.Substatus
		sub.Name, _ = Text(o["name"])
		sub.Code = statusCode(o["code"])
		word, ok := Text(o["status"])
		if !ok || statusWord(word) != word {
			return fmt.Errorf("%w: substatus %q has an unknown status", errStatusShape, Clip(sub.Name, 80))
		}
		sub.Status = word
		if sub.Message, sub.Lang, err = formatted(o["formattedMessage"]); err != nil {
			return err
		}
		// What will not be reported is only looked at. A file that is reported
		// whole has fewer characters, whatever masking secrets adds to them.
		total += len(sub.Name)
		if sub.Message != nil {
			total += len(*sub.Message)
		}
		if total <= 64*bigTotal {
			st.Substatus = append(st.Substatus, sub)
		}
	}
	return nil
}

// statusCode passes a whole number, or a short string, through. What else
// there may be (1e999, a number of a hundred digits, an object) would break
// the report for everybody, so it is 0.
func statusCode(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || len(raw) > maxCode {
		return json.RawMessage("0")
	}
	if raw[0] == '"' {
		return bytes.Clone(raw) // it outlives the file it was read from
	}
	var n json.Number
	if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') || json.Unmarshal(raw, &n) != nil {
		return json.RawMessage("0")
	}
	if i, err := n.Int64(); err == nil {
		return json.RawMessage(strconv.FormatInt(i, 10))
	}
	if x, err := n.Float64(); err == nil && math.Abs(x) < 1<<53 { // 1.0, as Python writes it
		return json.RawMessage(strconv.FormatInt(int64(x), 10))
	}
	return json.RawMessage("0")
}

func formatted(raw json.RawMessage) (message *string, lang string, err error) {
	o, err := fields(raw, "lang", "message")
	if err != nil {
		return nil, "", fmt.Errorf("%w: formattedMessage is not an object", errStatusShape)
	}
	if o == nil {
		return nil, "", nil
	}
	lang, _ = Text(o["lang"])
	lang = Clip(lang, maxWord)
	raw, ok := o["message"]
	if !ok {
		return nil, lang, fmt.Errorf("%w: formattedMessage has no message", errStatusShape)
	}
	if s, ok := Text(raw); ok {
		s = secret.Redact(s)
		return &s, lang, nil
	}
	return nil, lang, nil
}

// shorten cuts a status whose file is too big for the report: the parent
// message first, then substatuses in their order until the budget is used.
func shorten(st *protocol.ExtensionStatus) {
	total := 0
	if st.Message != nil {
		m := cutMark(*st.Message, bigMessage)
		st.Message = &m
		total += utf8.RuneCountInString(m)
	}
	var kept []protocol.Substatus
	for _, s := range st.Substatus {
		s.Name = cutMark(s.Name, bigSubMessage)
		n := utf8.RuneCountInString(s.Name)
		if s.Message != nil {
			m := cutMark(*s.Message, bigSubMessage)
			s.Message = &m
			n += utf8.RuneCountInString(m)
		}
		if total+n > bigTotal {
			break
		}
		total += n
		kept = append(kept, s)
	}
	st.Substatus = kept
}

// cutMark cuts at n characters, never inside of one. A text of exactly n
// characters gets the mark too, as everybody is used to.
func cutMark(s string, n int) string {
	if utf8.RuneCountInString(s) < n {
		return s
	}
	return Clip(s, n) + truncatedMark
}

// Clip is the first n characters of s.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// A FileStatus is what one status file has to say. cause is what is wrong with the
// file; what a handler says in it has none.
type FileStatus struct {
	protocol.ExtensionStatus
	Cause string
}

// ReadStatus is the extension status to report for one status file, whatever
// is found there. fresh says that the file was written moments ago and may
// be half a file.
func ReadStatus(path, full, version string, seq int) (st FileStatus, fi fs.FileInfo, fresh bool) {
	data, fi, err := folder.ReadOwn(path, MaxStatusFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return FileStatus{MissingStatus(path, full), ""}, nil, false
	case err != nil:
		return FileStatus{WrongStatus(fault.CodeOther, fmt.Sprintf("We couldn't read any status for %s-%s extension, for the sequence number %d. It failed due to %v",
			full, version, seq, err)), fault.CauseStatus}, fi, false
	}
	st.ExtensionStatus, err = ParseStatus(data)
	if err == nil {
		if utf8.RuneCount(data) > bigStatus {
			shorten(&st.ExtensionStatus)
		}
		return st, fi, false
	}
	if errors.Is(err, errStatusJSON) {
		fresh = time.Since(fi.ModTime()).Abs() < halfWritten
		excerpt := secret.Redact(strings.ToValidUTF8(Clip(string(data[:min(len(data), 4*excerptOfWrong)]), excerptOfWrong), "\ufffd"))
		return FileStatus{WrongStatus(fault.CodeStatus, fmt.Sprintf("The status reported by the extension %s-%s(Sequence number %d), was in an incorrect format and the agent could not parse it correctly. Failed due to %v: %s",
			full, version, seq, err, excerpt)), fault.CauseStatus}, fi, fresh
	}
	wrong := WrongStatus(fault.CodeStatus, fmt.Sprintf("Could not get a valid status from the extension %s-%s. Encountered the following error: %v", full, version, secret.Redact(err.Error())))
	wrong.Operation, wrong.AppliedTime, wrong.Substatus = st.Operation, st.AppliedTime, nil
	return FileStatus{wrong, fault.CauseStatus}, fi, fresh
}

// MissingStatus is reported while a handler has not written anything.
func MissingStatus(path, full string) protocol.ExtensionStatus {
	m := fmt.Sprintf("This status is being reported by the Guest Agent since no status file was reported by extension %s: [ExtensionStatusError] Status file %s does not exist", full, path)
	return protocol.ExtensionStatus{Status: Transitioning, Code: json.RawMessage("0"), Message: &m}
}

// WrongStatus is an error of the agent in place of a status.
func WrongStatus(code int, message string) protocol.ExtensionStatus {
	raw, _ := json.Marshal(code) // an int
	return protocol.ExtensionStatus{Status: Error, Code: raw, Message: &message}
}

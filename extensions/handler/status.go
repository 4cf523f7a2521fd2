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

// Values of an extension's status (status.status in a status file).
const (
	Transitioning = "transitioning"
	Warning       = "warning"
	Success       = "success"
	Error         = "error"
)

// HalfWritten is how long after its last change a file that can't be parsed may
// still be incomplete: shell and Python handlers write in place, some in several
// steps with seconds in between. WALinuxAgent waits for 8 seconds.
const HalfWritten = 15 * time.Second

// Limits of what is read and reported, in bytes or characters
// (extensions/SPEC.md §7.4).
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

// ParseStatus parses a status file. With an error it returns what could be
// parsed. For an empty array or null, Status is "".
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
		*dst = Clip(word, maxWord) // they are not shortened later, and the platform rejects a report that is too long
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

// statusWord changes unknown words to "error": a handler that reports "failed"
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
		// Substatuses beyond this bound are only validated. A file that is
		// reported without shortening stays below it, even with masked secrets.
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

// statusCode returns an integer or a short string as it is. Anything else (1e999,
// a number of a hundred digits, an object) could make the platform reject the
// whole report and becomes 0.
func statusCode(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || len(raw) > maxCode {
		return json.RawMessage("0")
	}
	if raw[0] == '"' {
		return bytes.Clone(raw) // do not keep the whole file in memory
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

// shorten cuts a status whose file is too big for the report: first the
// message, then each substatus, in order, until bigTotal is used up.
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

// cutMark cuts a text to n characters and appends a mark. A text of exactly n
// characters gets the mark, too, as in WALinuxAgent.
func cutMark(s string, n int) string {
	if utf8.RuneCountInString(s) < n {
		return s
	}
	return Clip(s, n) + truncatedMark
}

// Clip returns the first n characters of s.
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

// A FileStatus is the status in a status file. Cause is set if the file is
// unusable, and not for errors that a handler reports in it.
type FileStatus struct {
	protocol.ExtensionStatus
	Cause string
}

// ReadStatus returns the extension status to report for one status file, also
// if the file is missing or invalid. partial reports that it is not JSON, so
// that it may be incomplete if it was changed less than HalfWritten ago.
func ReadStatus(path, full, version string, seq int) (st FileStatus, fi fs.FileInfo, partial bool) {
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
		excerpt := secret.Redact(strings.ToValidUTF8(Clip(string(data[:min(len(data), 4*excerptOfWrong)]), excerptOfWrong), "\ufffd"))
		return FileStatus{WrongStatus(fault.CodeStatus, fmt.Sprintf("The status reported by the extension %s-%s(Sequence number %d), was in an incorrect format and the agent could not parse it correctly. Failed due to %v: %s",
			full, version, seq, err, excerpt)), fault.CauseStatus}, fi, true
	}
	wrong := WrongStatus(fault.CodeStatus, fmt.Sprintf("Could not get a valid status from the extension %s-%s. Encountered the following error: %v", full, version, secret.Redact(err.Error())))
	wrong.Operation, wrong.AppliedTime, wrong.Substatus = st.Operation, st.AppliedTime, nil
	return FileStatus{wrong, fault.CauseStatus}, fi, false
}

// MissingStatus is the status while a handler has not written a status file.
func MissingStatus(path, full string) protocol.ExtensionStatus {
	m := fmt.Sprintf("This status is being reported by the Guest Agent since no status file was reported by extension %s: [ExtensionStatusError] Status file %s does not exist", full, path)
	return protocol.ExtensionStatus{Status: Transitioning, Code: json.RawMessage("0"), Message: &m}
}

// WrongStatus is an error of the agent that is reported instead of a status.
func WrongStatus(code int, message string) protocol.ExtensionStatus {
	raw, _ := json.Marshal(code) // an int
	return protocol.ExtensionStatus{Status: Error, Code: raw, Message: &message}
}

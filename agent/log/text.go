package log

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/secret"
)

// NewText returns a logger that writes lines of text to w and nothing else.
func NewText(w io.Writer) zerolog.Logger {
	return zerolog.New(redactor{zerolog.MultiLevelWriter(&textWriter{w: w})})
}

// textWriter turns a record into one line: time, level, component, message,
// then the fields in order of their names. A public one is without
// secret.Printed.
type textWriter struct {
	w      io.Writer
	public bool
}

func (t *textWriter) Write(p []byte) (int, error) {
	rec, err := decode(p)
	if err != nil {
		return t.w.Write(p)
	}
	var b strings.Builder
	when, perr := time.Parse(time.RFC3339Nano, str(rec["time"]))
	if perr != nil {
		when = time.Now()
	}
	fmt.Fprintf(&b, "%s %s", when.UTC().Format("2006-01-02T15:04:05.000000Z"), strings.ToUpper(str(rec["level"])))
	if c := str(rec["component"]); c != "" {
		fmt.Fprintf(&b, " %s:", c)
	}
	b.WriteString(" " + str(rec["message"]))
	for _, k := range slices.Sorted(maps.Keys(rec)) {
		switch k {
		case "time", "level", "component", "message":
		default:
			if k == secret.Printed && t.public {
				continue
			}
			fmt.Fprintf(&b, " %s=%s", k, quoteIfNeeded(str(rec[k])))
		}
	}
	b.WriteByte('\n')
	if _, err := io.WriteString(t.w, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}

func decode(p []byte) (map[string]any, error) {
	var rec map[string]any
	d := json.NewDecoder(bytes.NewReader(p))
	d.UseNumber()
	err := d.Decode(&rec)
	return rec, err
}

func str(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(b)
	}
}

func quoteIfNeeded(s string) string {
	if s == "" || strings.ContainsAny(s, " \t\n\"=") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

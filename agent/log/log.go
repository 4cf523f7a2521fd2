package log

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
)

// New returns the logger of the agent. It writes structured records to the
// journal if stderr is connected to it, else text to stderr, and text to the
// classic log file, to which handlers append as well; an empty file name
// disables the log file. Nothing that happens to one of them stops the agent or
// keeps records from the others.
func New(file string, verbose bool) (zerolog.Logger, *Output) {
	out := &Output{}
	stderr := &textWriter{w: newPatient(os.Stderr)}
	var sinks []io.Writer
	if toJournal(os.Getenv("JOURNAL_STREAM"), os.Stderr) { //nolint:forbidigo // where stderr goes is a fact of the process
		sinks = append(sinks, &journal{socket: journalSocket, otherwise: stderr})
	} else {
		sinks = append(sinks, stderr)
	}
	if file != "" {
		out.file = host.NewLogFile("", file, 0o644, 10<<20, 3)
		sinks = append(sinks, &textWriter{w: out.file, public: true})
	}
	out.SetVerbose(verbose)
	return zerolog.New(redactor{w: leveled{zerolog.MultiLevelWriter(sinks...), &out.verbose}}).Hook(zerolog.HookFunc(stamp)), out
}

// stamp adds the time to a record. zerolog's own time stamp has one format for
// the whole process, in a variable.
func stamp(e *zerolog.Event, _ zerolog.Level, _ string) {
	e.Str(zerolog.TimestampFieldName, time.Now().Format(time.RFC3339Nano))
}

// Output is where the records of a logger go.
type Output struct {
	file    *host.LogFile // nil without one
	verbose atomic.Bool
}

// SetVerbose changes whether records of the debug level are written.
func (o *Output) SetVerbose(on bool) { o.verbose.Store(on) }

// Reopen lets the next record open the log file anew. It does so by itself when
// the name refers to another file; this is for whoever asks for it.
func (o *Output) Reopen() error { return o.Close() }

// Close closes the log file. A later record opens it again.
func (o *Output) Close() error {
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

// leveled drops records of the debug level unless verbose is set.
type leveled struct {
	zerolog.LevelWriter
	verbose *atomic.Bool
}

func (l leveled) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	if level < zerolog.InfoLevel && !l.verbose.Load() {
		return len(p), nil
	}
	return l.LevelWriter.WriteLevel(level, p)
}

// redactor masks secrets in every record, because texts from elsewhere (error
// bodies, output) may contain secrets. It reports success even if nothing could
// be written: a full disk must not stop the agent.
type redactor struct{ w zerolog.LevelWriter }

func (r redactor) Write(p []byte) (int, error) { return r.WriteLevel(zerolog.NoLevel, p) }

func (r redactor) WriteLevel(l zerolog.Level, p []byte) (int, error) {
	if _, err := r.w.WriteLevel(l, []byte(secret.Redact(string(p)))); err != nil {
		return len(p), nil //nolint:nilerr // a log that can't be written must not stop the agent
	}
	return len(p), nil
}

// errStuck is the error of a write to a reader that does not read.
var errStuck = errors.New("the reader does not read")

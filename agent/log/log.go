package log

import (
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
)

// New returns the logger of the agent. It writes structured records to the
// journal if there is one (else text to stderr), and text to the classic log
// file, to which handlers append as well; an empty file name disables the log
// file.
func New(file string, verbose bool) (zerolog.Logger, io.Closer) {
	zerolog.TimeFieldFormat = time.RFC3339Nano
	var sinks []io.Writer
	if j := dialJournal(); j != nil && os.Getenv("JOURNAL_STREAM") != "" { //nolint:forbidigo // where stderr goes is a fact of the process
		sinks = append(sinks, j)
	} else {
		sinks = append(sinks, &textWriter{w: os.Stderr})
	}
	var closer io.Closer = nopCloser{}
	if file != "" {
		l := host.NewLogFile("", file, 0o644, 10<<20, 3)
		sinks = append(sinks, &textWriter{w: l})
		closer = l
	}
	level := zerolog.InfoLevel
	if verbose {
		level = zerolog.DebugLevel
	}
	return zerolog.New(redactor{zerolog.MultiLevelWriter(sinks...)}).Level(level).With().Timestamp().Logger(), closer
}

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

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

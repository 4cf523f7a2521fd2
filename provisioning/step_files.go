package provisioning

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
)

// SaveCustomData stores the custom data as bytes, 0600
// (provisioning/SPEC.md §7.11). Custom data that cannot be decoded is a
// warning: it must never keep the user from getting into the VM.
type SaveCustomData struct {
	Path    string
	Data    host.Secret
	Encode  bool // write it as base64
	Problem string
	Unread  bool // a form that only cloud-init reads, which does not provision here
}

// ID implements Step.
func (SaveCustomData) ID() string { return StepCustomData }

func (s SaveCustomData) String() string {
	return fmt.Sprintf("save %d bytes of custom data", s.Data.Len())
}

// Apply implements Step.
func (s SaveCustomData) Apply(_ context.Context, m *Machine) error {
	// In pieces: the data may have tens of megabytes.
	err := m.putFrom(s.Path, 0o600, func(w io.Writer) error {
		if s.Encode {
			enc := base64.NewEncoder(base64.StdEncoding, w)
			_, err := io.Copy(enc, strings.NewReader(s.Data.Reveal()))
			return errors.Join(err, enc.Close())
		}
		_, err := io.Copy(w, strings.NewReader(s.Data.Reveal()))
		return err
	})
	if err != nil {
		return warn(CodeCustomData, "save custom data: %w", err)
	}
	if s.Problem != "" {
		return warn(CodeCustomData, "custom data cannot be decoded and is saved unchanged: %s", s.Problem)
	}
	if s.Unread {
		return warn(CodeCustomData, "custom data is saved and not run: it is for cloud-init, and azguest provisions this machine; UserData.Apply=y carries it out")
	}
	return nil
}

// CopyDocument leaves the redacted provisioning document on disk, where
// deprovision and other software look for it.
type CopyDocument struct{ Path, Data string }

// ID implements Step.
func (CopyDocument) ID() string { return StepCopy }

func (s CopyDocument) String() string { return "save a redacted copy of the provisioning document" }

// Apply implements Step.
func (s CopyDocument) Apply(_ context.Context, m *Machine) error {
	if err := m.put(s.Path, []byte(s.Data), 0o400); err != nil {
		return warn(CodeCopy, "save redacted copy of the provisioning document: %w", err)
	}
	return nil
}

// DisableAgent writes the file that keeps the agent from doing anything after
// provisioning (ProvisionGuestAgent=false).
type DisableAgent struct{ Path string }

// ID implements Step.
func (DisableAgent) ID() string { return StepDisable }

func (DisableAgent) String() string {
	return "disable the agent, as requested in the provisioning document"
}

// Apply implements Step.
func (s DisableAgent) Apply(_ context.Context, m *Machine) error {
	if err := m.put(s.Path, nil, 0o600); err != nil {
		return fail(CodeState, "failed to write state", err)
	}
	return nil
}

// WriteMarker writes the marker of a provisioned VM, and before it the file
// that says that Ready must be reported (see ReadyPending).
type WriteMarker struct {
	Path, VMID string
	Pending    string // empty: another program reports Ready
}

// ID implements Step.
func (WriteMarker) ID() string { return StepMarker }

func (s WriteMarker) String() string { return "mark VM " + s.VMID + " as provisioned" }

// Apply implements Step.
func (s WriteMarker) Apply(_ context.Context, m *Machine) error {
	if b, err := m.Root.ReadFile(s.Path); err == nil && string(b) == s.VMID {
		return nil // Ready may have been reported already
	}
	if s.Pending != "" {
		if err := m.put(s.Pending, []byte(s.VMID), 0o600); err != nil {
			return fail(CodeState, "failed to write state", err)
		}
	}
	if err := m.put(s.Path, []byte(s.VMID), 0o600); err != nil {
		if s.Pending != "" {
			err = errors.Join(err, m.Root.Remove(s.Pending))
		}
		return fail(CodeMarker, "failed to write the provisioned marker", err)
	}
	return nil
}

// RunCustomData executes the custom data, after Ready and at most once for a
// VM id; an interrupted script is not run again. Output goes to a file beside
// the journal.
type RunCustomData struct {
	File, Dir, VMID string
	Timeout         time.Duration // 0: one hour
}

// startedName is the file that says that the custom data has been started.
const startedName = "custom-data.started"

// ID implements Step.
func (RunCustomData) ID() string { return StepRunData }

func (RunCustomData) String() string { return "run the custom data" }

// Apply implements Step.
func (s RunCustomData) Apply(ctx context.Context, m *Machine) error {
	once := path.Join(s.Dir, startedName)
	if b, err := m.Root.ReadFile(once); err == nil && SameVM(string(b), s.VMID) {
		if !m.Root.Exists(path.Join(s.Dir, "custom-data.log")) {
			// An interrupted run is not repeated, because it is unknown how
			// far it came.
			return warn(CodeCustomData, "custom data was interrupted and is not run again")
		}
		return nil
	}
	data, err := beginning(m.Root, s.File)
	if err != nil {
		return warn(CodeCustomData, "run custom data: %w", err)
	}
	c, ok := scriptCommand(data, m.Root.Path(s.File))
	if !ok {
		return warn(CodeCustomData, "custom data not run: %s", whatItIs(data))
	}
	if err := m.put(once, []byte(s.VMID), 0o600); err != nil {
		return warn(CodeCustomData, "run custom data: %w", err)
	}
	if c.Name == m.Root.Path(s.File) {
		if err := m.Root.Chmod(s.File, 0o700); err != nil {
			return warn(CodeCustomData, "run custom data: %w", err)
		}
	}
	c.Timeout = s.Timeout
	if c.Timeout <= 0 {
		c.Timeout = time.Hour
	}
	res, runErr := m.Run.Run(ctx, c)
	log := fmt.Appendf(nil, "exit %d\n--- stdout\n%s\n--- stderr\n%s\n", res.Code, res.Stdout, res.Stderr)
	err = m.put(path.Join(s.Dir, "custom-data.log"), log, 0o600)
	if ex, ok := errors.AsType[*host.ExitError](runErr); ok {
		return &Warning{
			ID: CodeCustomData, Words: LastWords(res),
			Err: fmt.Errorf("custom data ended with exit code %d, output in %s", ex.Code, path.Join(s.Dir, "custom-data.log")), //nolint:err113 // a message
		}
	}
	if runErr != nil {
		return warn(CodeCustomData, "run custom data: %w", errors.Join(runErr, err))
	}
	if err != nil {
		return warn(CodeCustomData, "save output of custom data: %w", err)
	}
	return nil
}

// beginning reads the part of a file that says what it is.
func beginning(r host.Root, name string) ([]byte, error) {
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	return b, errors.Join(err, f.Close())
}

// whatItIs describes custom data that is not run.
func whatItIs(data []byte) string {
	switch {
	case len(data) == 0:
		return "it is empty"
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")), bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return "it begins with a byte order mark; save the script as UTF-8 without one"
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		return "it is compressed with gzip, which is read with UserData.Apply=y only"
	case forCloudInit(data):
		return "it is for cloud-init (" + printable(firstLine(data)) + "), and azguest provisions this machine; UserData.Apply=y carries it out"
	case bytes.HasPrefix(data, []byte("#!")):
		return "its first line does not name an interpreter by an absolute path"
	}
	return "neither a script with #! nor a program"
}

// forCloudInit reports whether data has one of the forms of cloud-init's user
// data that no other program reads.
func forCloudInit(data []byte) bool {
	for _, p := range []string{"#cloud-config", "#cloud-boothook", "#include", "#upstart-job", "#part-handler", "## template:", "Content-Type:", "MIME-Version:"} {
		if len(data) >= len(p) && strings.EqualFold(string(data[:len(p)]), p) {
			return true
		}
	}
	return false
}

func firstLine(data []byte) string {
	line, _, _ := bytes.Cut(data[:min(len(data), 200)], []byte("\n"))
	return strings.TrimSpace(string(line))
}

// LastWords returns the end of what a command has printed, for root,
// with secrets masked: the end of standard error, else of standard output.
func LastWords(res host.Result) string {
	out := bytes.TrimSpace(res.Stderr)
	if len(out) == 0 {
		out = bytes.TrimSpace(res.Stdout)
	}
	// Masked before it is cut: a part of a secret has no form.
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, secret.Redact(strings.ToValidUTF8(string(out[max(0, len(out)-8<<10):]), "?")))
	if text == "" {
		return "no output"
	}
	const most = 400
	if len(text) > most {
		text = "…" + strings.ToValidUTF8(text[len(text)-most:], "")
	}
	return text
}

// scriptCommand returns the command that runs data, which is in file. A script
// is run by naming its interpreter, so that a noexec mount does not matter.
func scriptCommand(data []byte, file string) (host.Cmd, bool) {
	switch {
	case bytes.HasPrefix(data, []byte("\x7fELF")):
		return host.Cmd{Name: file}, true
	case bytes.HasPrefix(data, []byte("#!")):
		line, _, _ := bytes.Cut(data[2:], []byte("\n"))
		// As the kernel: one interpreter, then at most one argument.
		name, arg, hasArg := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if len(name) == 0 || name[0] != '/' {
			return host.Cmd{}, false
		}
		c := host.Cmd{Name: string(name)}
		if arg = bytes.TrimSpace(arg); hasArg && len(arg) > 0 {
			c.Args = append(c.Args, string(arg))
		}
		c.Args = append(c.Args, file)
		return c, true
	}
	return host.Cmd{}, false
}

package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/metadata"
)

// A place is a path at which this agent, or an earlier agent, keeps state.
type place struct {
	pattern string
	// What has to be there, if anything is: a directory of this mode, a socket,
	// or a regular file.
	dir    fs.FileMode
	socket bool
	// limit is the largest size of a file in bytes; json and time say what it
	// must contain.
	limit int64
	json  bool
	time  bool
	// mark: only the existence of the file matters, not its content. An
	// unusable one is replaced by an empty one.
	mark bool
}

// certName is a pattern for the thumbprint in a certificate's file name.
var certName = strings.Repeat("[0-9A-F]", 40)

// places returns all of the agent's own state that is read at a start or later,
// directories before their contents.
func (a *Agent) places() []place {
	lib := a.cfg.Paths.Lib
	own := lib + "/azguest"
	const small, large = 64 << 10, 8 << 20
	return []place{
		{pattern: own, dir: 0o700},
		{pattern: own + "/ext", dir: 0o700},
		{pattern: own + "/ext/records", dir: 0o700},
		{pattern: own + "/ext/jobs", dir: 0o700},
		{pattern: own + "/ext/packages", dir: 0o700},
		{pattern: own + "/ext/saved", dir: 0o700},
		{pattern: own + "/ext/tmp", dir: 0o700},
		{pattern: own + "/ext/gone", dir: 0o700},
		{pattern: own + "/ext/reserve", dir: 0o700},
		{pattern: own + "/ext/logs", dir: 0o700},
		{pattern: own + "/hooks", dir: 0o700},
		{pattern: own + "/hooks/runs", dir: 0o700},
		{pattern: own + "/hooks/jobs", dir: 0o700},
		{pattern: own + "/data", dir: 0o700},
		{pattern: own + "/data/documents", dir: 0o700},
		{pattern: own + "/data/runs", dir: 0o700},
		{pattern: own + "/data/per", dir: 0o700},
		{pattern: own + "/data-per-once", dir: 0o700},
		{pattern: lib + "/events", dir: 0o700},
		{pattern: lib + "/history", dir: 0o700},
		{pattern: lib + "/logcollector", dir: 0o700},

		{pattern: own + "/ext/records/*.json", limit: large, json: true},
		{pattern: own + "/hooks/runs/*.json", limit: large, json: true},
		{pattern: own + "/access.json", limit: large, json: true},
		{pattern: own + "/data.json", limit: large, json: true},
		{pattern: own + "/data-once.json", limit: large, json: true},
		{pattern: own + "/data/began", limit: small},
		{pattern: own + "/disk.json", limit: small, json: true},
		{pattern: own + "/hold.json", limit: small, json: true},
		{pattern: own + "/hostkeys.json", limit: small, json: true},
		{pattern: own + "/jit.json", limit: large, json: true},
		{pattern: own + "/provision.json", limit: large, json: true},
		{pattern: own + "/removing.json", limit: small, json: true},
		{pattern: own + "/sshd.json", limit: small, json: true},
		{pattern: own + "/update.json", limit: large, json: true},
		{pattern: own + "/update.lock", limit: small},
		{pattern: own + "/uids.json", limit: large, json: true},
		{pattern: own + "/users.json", limit: large, json: true},
		{pattern: own + "/ready_pending", limit: small, mark: true},
		{pattern: lib + "/disable_agent", limit: large, mark: true},
		{pattern: lib + "/fast_track.json", limit: small, mark: true},
		{pattern: lib + "/provisioned", limit: small, mark: true},
		{pattern: lib + "/published_hostname", limit: small},
		// These are only written; anything else in their place is moved away.
		{pattern: lib + "/ovf-env.xml", limit: large},
		{pattern: lib + "/CustomData", limit: large},
		{pattern: lib + "/sudoers.check", limit: large},
		{pattern: lib + "/Certificates.pem", limit: large},
		{pattern: lib + "/SharedConfig.xml", limit: large},
		{pattern: lib + "/GoalState.1.xml", limit: large},
		{pattern: lib + "/" + certName + ".crt", limit: large},
		{pattern: lib + "/" + certName + ".prv", limit: large},
		{pattern: lib + "/Protocol", limit: small},
		{pattern: lib + "/TransportCert.pem", limit: small},
		{pattern: lib + "/TransportPrivate.pem", limit: small},
		{pattern: lib + "/WireServerEndpoint", limit: small},
		{pattern: lib + "/" + initialMark, limit: small, mark: true},
		{pattern: lib + "/" + rsmMark, limit: small, mark: true},

		{pattern: lives, limit: small, json: true},
		{pattern: readyMark, limit: small, time: true}, // reporting Ready once more does no harm
		{pattern: hungFile, limit: small, json: true},
		{pattern: hungStacks, limit: large},
		{pattern: "/run/azguest/status.json", limit: 2 * large, json: true},
		{pattern: "/run/azguest/status.root.json", limit: 2 * large, json: true},
		{pattern: metadata.CacheFile, limit: large, json: true},
		{pattern: metadata.UnitFile, limit: large},
		{pattern: "/run/azguest/ctl.sock", socket: true},
	}
}

// judge returns what is wrong with a file of a place, nil if nothing is.
func (p place) judge(r host.Root, name string) error {
	fi, err := r.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case p.dir != 0:
		if !fi.IsDir() {
			return fmt.Errorf("%s instead of a directory", kind(fi.Mode()))
		}
		_, err = r.ReadDir(name)
		return err
	case p.socket:
		if fi.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("%s instead of a socket", kind(fi.Mode()))
		}
		return nil
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%s instead of a file", kind(fi.Mode()))
	}
	b, err := r.ReadBounded(name, p.limit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case p.json && len(bytes.Trim(b, "\x00\n ")) > 0 && !json.Valid(b):
		return errors.New("not JSON")
	}
	if p.time {
		_, err = time.Parse(time.RFC3339, strings.TrimSpace(string(b)))
		return err
	}
	return nil // also if empty after a power cut: all readers treat that as missing
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeSymlink != 0:
		return "a link"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "a file"
}

// lacking reports whether an error is due to a lack of resources on the machine
// and not to the file.
func lacking(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOSPC, unix.EROFS, unix.EINTR, unix.EAGAIN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// checkState sets aside state files that can't be used, because they could make
// each start fail or hang. The state in them is lost.
func (a *Agent) checkState() {
	for _, p := range a.places() {
		names, err := a.Root.Glob(p.pattern)
		if err != nil {
			continue // a configured path that is not a valid pattern
		}
		for _, name := range names {
			err := p.judge(a.Root, name)
			if err == nil || lacking(err) {
				continue
			}
			err = a.Root.SetAside(name, err)
			a.Log.Error().Err(err).Str("code", codeState).Msg("state file of the agent not usable")
			if _, ok := errors.AsType[*host.AsideError](err); !ok {
				continue
			}
			switch {
			case p.dir != 0:
				err = a.Root.MkdirAll(name, p.dir)
			case p.mark:
				err = a.Root.WriteFile(name, nil, 0o600)
			default:
				err = nil
			}
			if err != nil {
				a.Log.Warn().Err(err).Msg("could not replace state file that was set aside")
			}
		}
	}
	a.showAside()
}

const codeState = "AZ-AGENT-STATE"

// maxAside is the largest number of names that are shown.
const maxAside = 5

// showAside shows which files were set aside, until they are removed.
func (a *Agent) showAside() {
	var found []string
	seen := map[string]bool{}
	for _, p := range a.places() {
		dir := path.Dir(p.pattern)
		if seen[dir] {
			continue
		}
		seen[dir] = true
		names, err := a.Root.Glob(dir + "/*" + host.AsideSuffix)
		if err == nil {
			found = append(found, names...)
		}
	}
	var err error
	if n := len(found); n > maxAside {
		err = fmt.Errorf("set aside: %s and %d more", strings.Join(found[:maxAside], ", "), n-maxAside)
	} else if n > 0 {
		err = fmt.Errorf("set aside: %s", strings.Join(found, ", "))
	}
	if err != nil || a.aside.Load() {
		a.aside.Store(err != nil)
		a.live.problem("state", codeState, fixOf(codeState), err)
	}
}

package provisioning

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// sshdNote is what others say to sshd about the keywords we set: lower-case
// name to value, empty for nothing.
type sshdNote map[string]string

// say is what the configuration says without us.
func sayOthers(conf []directive, keys []string) sshdNote {
	n := sshdNote{}
	conf = others(conf)
	for _, k := range keys {
		n[k] = ""
		if d, ok := effective(conf, namesOf(k)...); ok {
			n[k] = strings.ToLower(strings.Join(d.Args, " "))
		}
	}
	return n
}

func (n sshdNote) save(r host.Root, name string) error {
	b, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("save sshd configuration: %w", err)
	}
	return r.WriteFile(name, append(b, '\n'), 0o600)
}

// ourKeys are the keywords that we set, with what they are set to.
func ourKeys(conf []directive) (keys []string, values map[string]string) {
	values = map[string]string{}
	for _, d := range conf {
		if d.Ours && d.Match == "" && values[d.Key] == "" {
			keys = append(keys, d.Key)
			values[d.Key] = strings.Join(d.Args, " ")
		}
	}
	return keys, values
}

// remember keeps what others say now, so that a later change is noticed.
func (s ConfigureSSHD) remember(r host.Root) error {
	conf := readSSHD(r, s.Main, s.Dir, nil)
	keys, _ := ourKeys(conf)
	if s.Note == "" || len(keys) == 0 {
		return nil
	}
	return sayOthers(conf, keys).save(r, s.Note)
}

// YieldSSHD takes back what we said to sshd at provisioning where somebody
// says otherwise since: our lines are read first, so the edit of an
// administrator, or of VMAccess for a customer who is locked out, would
// never count. What was there before us, or says the same, changes nothing.
// It returns the keywords that were given up; sshd has been told then.
func (m *Machine) YieldSSHD(ctx context.Context) ([]string, error) {
	r, o := m.Root, m.Options
	var f Facts
	m.gatherSSHD(&f)
	conf := readSSHD(r, f.SSHDMain, o.SSHDir, nil)
	keys, values := ourKeys(conf)
	if len(keys) == 0 {
		return nil, nil
	}
	note := path.Join(o.Dir(), "sshd.json")
	now := sayOthers(conf, keys)
	before := sshdNote{}
	if !readJSON(r, note, &before) {
		return nil, now.save(r, note) // whatever there is, was there before
	}
	var given []string
	for _, k := range keys {
		was, known := before[k]
		if known && now[k] != "" && now[k] != was && !strings.EqualFold(now[k], values[k]) {
			given = append(given, k)
		}
	}
	if len(given) == 0 {
		return nil, nil
	}
	var left []Setting
	for _, k := range keys {
		if !slices.Contains(given, k) {
			left = append(left, Setting{properName(k), values[k]})
		}
	}
	s := ConfigureSSHD{SSHD: which(r, "sshd"), Main: f.SSHDMain, Dir: o.SSHDir, User: "root", DropIn: r.Exists(dropIn(o.SSHDir))}
	undo, _, err := s.ways(r)[0](left)
	if err != nil {
		return nil, fail(CodeSSHD, "failed to update sshd config", err)
	}
	if v := s.ask(ctx, m, nil); v.err != nil {
		// It does not start with the edit either; that is not for us to mend.
		return nil, fail(CodeSSHD, "failed to update sshd config", errors.Join(v.err, undo()))
	}
	if err := now.save(r, note); err != nil {
		return given, err
	}
	m.sshdChanged = bootClock()
	return given, SSHDUp{PidFile: f.SSHDSet["pidfile"]}.Apply(ctx, m)
}

// properName is how the manual spells a keyword.
func properName(key string) string {
	for _, n := range []string{"PasswordAuthentication", "KbdInteractiveAuthentication", "ChallengeResponseAuthentication", "ClientAliveInterval"} {
		if strings.EqualFold(n, key) {
			return n
		}
	}
	return key
}

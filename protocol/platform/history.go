package platform

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
)

const (
	historyEntries = 50
	historyBytes   = 8 << 20
	historyDoc     = 1 << 20 // a larger one is left out
)

// archive keeps the documents of a new goal state under history/, without
// secrets, for troubleshooting (protocol/SPEC.md §16.2). It is best effort:
// the files are not synced, and errors are only logged.
func (c *Client) archive(incarnation string) {
	budget := c.historyBudget()
	if budget < 0 {
		return
	}
	dir := path.Join(c.o.LibDir, "history")
	name := time.Now().UTC().Format("2006-01-02T15-04-05") + "__" + safe(incarnation)
	if etag := c.state.adopted.etag; etag != "" {
		name += "-" + safe(etag)
	}
	entry := path.Join(dir, name)
	if err := c.o.Root.MkdirAll(entry, 0o700); err != nil {
		c.o.Log.Debug().Err(err).Msg("could not archive goal state")
		return
	}
	d := &c.state.docs
	certs, _ := json.MarshalIndent(thumbprints(d.certs), "", "  ")
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"GoalState.xml", d.goalState},
		{"ExtensionsConfig.xml", d.extensions},
		{"HostingEnvironmentConfig.xml", d.hosting},
		{"SharedConfig.xml", d.sharedConfig},
		{"VmSettings.json", d.vmSettings},
		{"RemoteAccess.xml", d.access},
		{"Certificates.json", certs},
	} {
		if len(f.data) == 0 {
			continue
		}
		if err := c.o.Root.WriteFileLazy(path.Join(entry, f.name), withoutSecrets(f.data), 0o600); err != nil {
			c.o.Log.Debug().Err(err).Msg("could not archive goal state")
			break
		}
	}
	prune(c.o.Root, dir, budget)
}

func (c *Client) historyBudget() int64 { return cmp.Or(c.o.HistoryBytes, historyBytes) }

// forHistory returns a document that archive is to keep, or nil if it is too
// large. Otherwise only the parsed form is needed, and memory is too scarce
// for both.
func (c *Client) forHistory(doc []byte) []byte {
	if int64(len(doc)) > min(c.historyBudget()/4, historyDoc) {
		return nil
	}
	return doc
}

type summary struct {
	Thumbprint    string `json:"thumbprint"`
	HasPrivateKey bool   `json:"hasPrivateKey"`
}

func thumbprints(certs []protocol.Certificate) []summary {
	out := []summary{}
	for _, k := range certs {
		out = append(out, summary{k.Thumbprint, k.KeyPEM.Set()})
	}
	return out
}

// safe turns s into a part of a file name.
func safe(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '.' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, s)
	return strings.TrimLeft(s[:min(len(s), 64)], ".")
}

var (
	// In XML the quotes of the JSON inside are escaped in attributes, not in text.
	jsonSecret = regexp.MustCompile(`(?i)((?:"|&quot;|\\")(?:protectedSettings|encryptedHealthChecks|encryptedApplicationProfile)(?:"|&quot;|\\")\s*:\s*)(?:"|&quot;|\\")[^"&\\]*`)
	xmlSecret  = regexp.MustCompile(`(?is)(<(?:\w+:)?(?:Password|Data)\b[^>]*>)[^<]*`)
)

// withoutSecrets removes protected settings, passwords and signatures of
// addresses.
func withoutSecrets(b []byte) []byte {
	b = jsonSecret.ReplaceAll(b, []byte(`${1}"<redacted>`))
	b = xmlSecret.ReplaceAll(b, []byte(`${1}&lt;redacted&gt;`))
	return []byte(secret.Redact(string(bytes.TrimRight(b, "\x00"))))
}

// prune removes the oldest entries beyond the number and the bytes allowed.
func prune(root host.Root, dir string, budget int64) {
	list, err := root.ReadDir(dir)
	if err != nil {
		return
	}
	slices.Reverse(list)
	var total int64
	for i, e := range list {
		p := path.Join(dir, e.Name())
		total += size(root, p)
		if i > 0 && (i >= historyEntries || total > budget) {
			_ = root.RemoveAll(p)
		}
	}
}

// size is the size in bytes of a file or of the files in a directory, rounded
// up to blocks.
func size(root host.Root, name string) int64 {
	var n int64
	add := func(fi fs.FileInfo) {
		if fi.Mode().IsRegular() {
			n += (fi.Size() + 4095) / 4096 * 4096
		}
	}
	if fi, err := root.Lstat(name); err == nil {
		add(fi)
	}
	// What can't be read has no size.
	_ = root.Walk(name, host.MaxEntries, func(_ string, _ *host.Dir, fi fs.FileInfo, _ error) error {
		add(fi)
		return nil
	})
	return n
}

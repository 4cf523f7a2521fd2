package wire

import (
	"errors"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
)

// ParseManifest reads a version manifest (protocol/SPEC.md §8.1). Internal
// versions are usable like public ones. A version that occurs twice keeps
// the addresses of both.
func ParseManifest(b []byte) (*protocol.Manifest, error) {
	root, err := parse("manifest", b)
	if err != nil {
		return nil, err
	}
	if !root.is("PluginVersionManifest") && len(root.all("Plugin")) == 0 {
		// A page, or an error document: well-formed, but not a manifest.
		return nil, &protocol.DocumentError{Doc: "manifest", Err: errors.New("not a version manifest")}
	}
	m := &protocol.Manifest{}
	at := map[string]int{}
	for _, list := range []string{"Plugins", "InternalPlugins"} {
		for _, p := range root.below(list).all("Plugin") {
			v := protocol.PackageVersion{Version: p.child("Version").text(), Internal: list == "InternalPlugins"}
			for _, u := range p.child("Uris").all("Uri") {
				if u.text() != "" {
					v.URIs = append(v.URIs, secret.NewURL(u.text()))
				}
			}
			if v.Version == "" {
				continue
			}
			if i, twice := at[v.Version]; twice {
				m.Versions[i].URIs = append(m.Versions[i].URIs, v.URIs...)
				continue
			}
			at[v.Version] = len(m.Versions)
			m.Versions = append(m.Versions, v)
		}
	}
	return m, nil
}

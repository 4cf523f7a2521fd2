package fabric

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"testing/fstest"
	"time"

	"github.com/azguest/azguest/test/fabric/media"
)

// FileSystem is the file system of a provisioning medium.
type FileSystem string

// The file systems: the platform's is pure UDF, Azure Stack also has ISO 9660.
const (
	UDF     FileSystem = "udf"
	ISO9660 FileSystem = "iso"
	Bridge  FileSystem = "bridge" // both, sharing the same file data
)

// A Medium describes a provisioning DVD.
type Medium struct {
	Provisioning
	Spelling Spelling
	FS       FileSystem // default UDF
	Label    string     // default rd_rdfe_stable.YYMMDD-HHMM as the platform writes it
	// Malformed cuts ovf-env.xml in the middle of an element.
	Malformed bool
	// Raw replaces ovf-env.xml.
	Raw []byte
	// Extra are more files, by name.
	Extra map[string][]byte
	// Time is the modification time of the files; default now.
	Time time.Time
}

// Files returns the files of the medium by name.
func (m Medium) Files() (map[string][]byte, error) {
	doc := m.Raw
	if doc == nil {
		var err error
		if doc, err = OVFEnvironment(m.Provisioning, m.Spelling); err != nil {
			return nil, err
		}
	}
	if m.Malformed {
		if i := bytes.Index(doc, []byte("UserName>")); i > 0 {
			doc = doc[:i]
		} else {
			doc = doc[:len(doc)/2]
		}
	}
	files := map[string][]byte{"ovf-env.xml": doc}
	if len(m.CustomData) > 0 {
		files["CustomData.bin"] = m.CustomData
	}
	maps.Copy(files, m.Extra)
	return files, nil
}

// Image builds the medium as a file to attach: 2048-byte sectors, ready for
// qemu's cdrom or a loop device.
func (m Medium) Image() ([]byte, error) {
	files, err := m.Files()
	if err != nil {
		return nil, err
	}
	when := m.Time
	if when.IsZero() {
		when = time.Now()
	}
	image := media.Image{Files: files, Label: or(m.Label, "rd_rdfe_stable."+when.UTC().Format("060102-1504")), Time: when}
	switch or(string(m.FS), string(UDF)) {
	case string(UDF):
		image.UDF = true
	case string(ISO9660):
		image.ISO9660 = true
	case string(Bridge):
		image.UDF, image.ISO9660 = true, true
	default:
		return nil, fmt.Errorf("build medium: unknown file system %q", m.FS)
	}
	return image.Build()
}

// Medium returns the provisioning DVD of the VM.
func (v *VM) Medium() Medium {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	return Medium{Provisioning: v.setup}
}

// Media returns the content of the VM's provisioning DVD as a file system, for
// agents under test that take one.
func (v *VM) Media() fs.FS {
	files, err := v.Medium().Files()
	if err != nil { // Files only fails for an unknown spelling
		return fstest.MapFS{}
	}
	out := fstest.MapFS{}
	for name, data := range files {
		out[name] = &fstest.MapFile{Data: data, Mode: 0o444, ModTime: time.Now()}
	}
	return out
}

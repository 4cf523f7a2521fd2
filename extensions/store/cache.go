package store

import (
	"sync"
	"syscall"

	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
)

// A Cache reads status files and manifests only when they have changed. The zero
// value is ready to use.
type Cache struct {
	mu      sync.Mutex // guards the maps
	entries map[string]cachedStatus
	forms   map[string]cachedManifest
}

type cachedStatus struct {
	stamp FileStamp
	st    handler.FileStatus
	good  bool
}

type cachedManifest struct {
	stamp FileStamp
	hm    handler.Manifest
}

// A FileStamp has the metadata that changes whenever a file does.
type FileStamp struct {
	dev, ino uint64
	Size     int64
	Mtime    syscall.Timespec
	ctime    syscall.Timespec
	mode     uint32
}

// StampOf returns the stamp of a file, and false if there is none.
func StampOf(path string) (FileStamp, bool) {
	fi, err := folder.Root.Lstat(path)
	if err != nil {
		return FileStamp{}, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return FileStamp{}, false
	}
	return FileStamp{dev: uint64(st.Dev), ino: st.Ino, Size: st.Size, Mtime: st.Mtim, ctime: st.Ctim, mode: st.Mode}, true //nolint:unconvert // the type of Dev depends on the architecture
}

// Status returns the content of one status file (see handler.ReadStatus). While
// the file is incomplete, it returns the previous content.
func (c *Cache) Status(path, full, version string, seq int) (st handler.FileStatus, missing bool) {
	stamp, there := StampOf(path)
	c.mu.Lock()
	old, known := c.entries[path]
	c.mu.Unlock()
	if !there {
		return handler.FileStatus{ExtensionStatus: handler.MissingStatus(path, full)}, true
	}
	if known && old.stamp == stamp {
		return old.st, false
	}
	st, fi, fresh := handler.ReadStatus(path, full, version, seq)
	if fi == nil && st.Status == handler.Transitioning {
		return st, true // deleted meanwhile
	}
	if fresh {
		if known && old.good {
			return old.st, false
		}
		return handler.FileStatus{ExtensionStatus: handler.MissingStatus(path, full)}, false
	}
	c.mu.Lock()
	if c.entries == nil || len(c.entries) > 1000 {
		c.entries = map[string]cachedStatus{}
	}
	c.entries[path] = cachedStatus{stamp: stamp, st: st, good: true}
	c.mu.Unlock()
	return st, false
}

// Manifest returns the manifest at path, empty if it is missing or invalid.
func (c *Cache) Manifest(path string) handler.Manifest {
	stamp, there := StampOf(path)
	if !there {
		return handler.Manifest{}
	}
	c.mu.Lock()
	old, known := c.forms[path]
	c.mu.Unlock()
	if known && old.stamp == stamp {
		return old.hm
	}
	var hm handler.Manifest
	if data, _, err := folder.Read(path, handler.MaxManifest); err == nil {
		hm, _ = handler.ParseManifest(data) // an invalid one counts as empty
	}
	c.mu.Lock()
	if c.forms == nil || len(c.forms) > 1000 {
		c.forms = map[string]cachedManifest{}
	}
	c.forms[path] = cachedManifest{stamp: stamp, hm: hm}
	c.mu.Unlock()
	return hm
}

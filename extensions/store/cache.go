package store

import (
	"io/fs"
	"sync"
	"syscall"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
)

// A Cache reads status files and manifests only when they have changed. The zero
// value is ready to use.
type Cache struct {
	mu      sync.Mutex // guards the fields
	entries map[string]cachedStatus
	forms   map[string]cachedManifest
	ages    Ages
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

// A FileStamp has the metadata that changes whenever a file does, whatever time
// the file or the machine's clock has. The zero value stands for no file.
type FileStamp struct {
	Inode uint64           `json:"inode"`
	Size  int64            `json:"size"`
	Mtime syscall.Timespec `json:"mtime"`
	Ctime syscall.Timespec `json:"ctime"`
	Mode  uint32           `json:"mode"`
}

// StampOf returns the stamp of a file, and false if there is none.
func StampOf(path string) (FileStamp, bool) {
	fi, err := folder.Root.Lstat(path)
	if err != nil {
		return FileStamp{}, false
	}
	return stampOf(fi)
}

func stampOf(fi fs.FileInfo) (FileStamp, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return FileStamp{}, false
	}
	return FileStamp{Inode: st.Ino, Size: st.Size, Mtime: st.Mtim, Ctime: st.Ctim, Mode: st.Mode}, true
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
	st, fi, partial := handler.ReadStatus(path, full, version, seq)
	if fi == nil && st.Status == handler.Transitioning {
		return st, true // deleted meanwhile
	}
	if partial && c.Age(path, fi) < handler.HalfWritten {
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

// Age returns how long ago a file was written; see Ages.
func (c *Cache) Age(path string, fi fs.FileInfo) time.Duration {
	stamp, ok := stampOf(fi)
	if !ok {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := host.Now()
	return c.ages.Of(path, stamp, now.At, time.Now())
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

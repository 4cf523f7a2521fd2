package extensions

import (
	"sync"
	"syscall"
)

// fileCache reads status files and manifests only when they have changed.
type fileCache struct {
	mu      sync.Mutex // guards the maps
	entries map[string]cachedStatus
	forms   map[string]cachedManifest
}

type cachedStatus struct {
	stamp fileStamp
	st    word
	good  bool
}

type cachedManifest struct {
	stamp fileStamp
	hm    HandlerManifest
}

// fileStamp changes whenever a file does.
type fileStamp struct {
	dev, ino uint64
	size     int64
	mtime    syscall.Timespec
	ctime    syscall.Timespec
	mode     uint32
}

func stampOf(path string) (fileStamp, bool) {
	fi, err := top.Lstat(path)
	if err != nil {
		return fileStamp{}, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileStamp{}, false
	}
	return fileStamp{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim, mode: st.Mode}, true //nolint:unconvert // Dev is not uint64 everywhere
}

// status is the word of one status file. While a file is half written the
// word before it stands.
func (c *fileCache) status(path, full, version string, seq int) (st word, missing bool) {
	stamp, there := stampOf(path)
	c.mu.Lock()
	old, known := c.entries[path]
	c.mu.Unlock()
	if !there {
		return word{missingStatus(path, full), ""}, true
	}
	if known && old.stamp == stamp {
		return old.st, false
	}
	st, fi, fresh := statusOf(path, full, version, seq)
	if fi == nil && st.Status == transitioning {
		return st, true // gone meanwhile
	}
	if fresh {
		if known && old.good {
			return old.st, false
		}
		return word{missingStatus(path, full), ""}, false
	}
	c.mu.Lock()
	if c.entries == nil || len(c.entries) > 1000 {
		c.entries = map[string]cachedStatus{}
	}
	c.entries[path] = cachedStatus{stamp: stamp, st: st, good: true}
	c.mu.Unlock()
	return st, false
}

func (c *fileCache) manifest(path string) HandlerManifest {
	stamp, there := stampOf(path)
	if !there {
		return HandlerManifest{}
	}
	c.mu.Lock()
	old, known := c.forms[path]
	c.mu.Unlock()
	if known && old.stamp == stamp {
		return old.hm
	}
	var hm HandlerManifest
	if data, _, err := readSafely(path, maxManifest); err == nil {
		hm, _ = ParseHandlerManifest(data) // a bad one has no heartbeat
	}
	c.mu.Lock()
	if c.forms == nil || len(c.forms) > 1000 {
		c.forms = map[string]cachedManifest{}
	}
	c.forms[path] = cachedManifest{stamp: stamp, hm: hm}
	c.mu.Unlock()
	return hm
}

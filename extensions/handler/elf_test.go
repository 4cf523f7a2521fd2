package handler

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestSEC7SparseProgram: examining a program that could not be run does not need
// too much memory, whatever sizes its headers claim.
func TestSEC7SparseProgram(t *testing.T) {
	const size = 128 << 20
	make64 := func(shnum, phnum uint16, interp uint64) []byte {
		b := make([]byte, 64+2*64)
		copy(b, "\x7fELF\x02\x01\x01")
		le := binary.LittleEndian
		le.PutUint16(b[16:], uint16(elf.ET_EXEC))
		le.PutUint16(b[18:], uint16(elf.EM_S390))
		le.PutUint32(b[20:], 1)
		le.PutUint16(b[52:], 64)
		if phnum > 0 {
			le.PutUint64(b[32:], 64)
			le.PutUint16(b[54:], 56)
			le.PutUint16(b[56:], phnum)
			le.PutUint32(b[64:], uint32(elf.PT_INTERP))
			le.PutUint64(b[64+32:], interp)
		}
		if shnum > 0 {
			le.PutUint64(b[40:], 64)
			le.PutUint16(b[58:], 64)
			le.PutUint16(b[60:], shnum)
			le.PutUint16(b[62:], 1)
			le.PutUint32(b[128+4:], uint32(elf.SHT_STRTAB))
			le.PutUint64(b[128+24:], 4096)
			le.PutUint64(b[128+32:], size-8192)
		}
		return b
	}
	for name, head := range map[string][]byte{
		"names of sections": make64(2, 0, 0),
		"interpreter":       make64(0, 1, size-8192),
		"segments":          make64(0, 65535, 1),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "run")
			writeFile(t, file, string(head))
			if err := os.Truncate(file, size); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			p := ProbeCommand(dir, "run")
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
				t.Errorf("%d MiB were allocated", took>>20)
			}
			if p.Machine != "S390" {
				t.Errorf("machine %q", p.Machine)
			}
		})
	}
}

// TestELFHead: for real programs, elfHead returns the same as package debug/elf.
func TestELFHead(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{exe, "/bin/sh", "/bin/sleep", "/usr/bin/env"} {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		e, err := elf.NewFile(f)
		if err == nil {
			want := ""
			if s := e.Section(".interp"); s != nil {
				b, _ := s.Data()
				want = strings.TrimRight(string(b), "\x00")
			}
			if machine, interp := elfHead(f); machine != e.Machine || interp != want {
				t.Errorf("%s: %v %q, want %v %q", file, machine, interp, e.Machine, want)
			}
		}
		_ = f.Close()
	}
	for cut := range 64 { // a truncated file must not cause a panic
		_, _ = elfHead(strings.NewReader(elfOfAnother[:min(cut, len(elfOfAnother))]))
	}
}

// elfOfAnother is the start of an ELF program for another architecture (s390x).
var elfOfAnother = "\x7fELF\x02\x02\x01" + strings.Repeat("\x00", 9) + "\x00\x02\x00\x16\x00\x00\x00\x01" + strings.Repeat("\x00", 40)

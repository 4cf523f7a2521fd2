package update

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/x509"
	"debug/elf"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/update/updatetest"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/test/peak"
)

const lib = "/var/lib/waagent"

// blobs is a storage account: content by address.
type blobs struct {
	root  host.Root
	m     protocol.Manifest
	at    map[string][]byte
	asked []string
	after func(dst string) // called after each download
}

type answer struct{ code string }

func (a answer) Error() string { return "status" }
func (a answer) Code() string  { return a.code }

func (b *blobs) Manifest(context.Context, []secret.URL) (protocol.Manifest, error) { return b.m, nil }

func (b *blobs) Package(_ context.Context, _ protocol.Manifest, v protocol.PackageVersion, dst string, limit int64, check func(file, digest string) error) (string, error) {
	var errs []error
	for _, u := range v.URIs {
		b.asked = append(b.asked, path.Base(strings.SplitN(u.Reveal(), "?", 2)[0]))
		data, ok := b.at[u.Reveal()]
		switch {
		case !ok:
			errs = append(errs, answer{"host-status"})
		case data == nil:
			errs = append(errs, answer{"host-timeout"})
		case int64(len(data)) > limit:
			errs = append(errs, answer{"host-document"})
		default:
			if err := b.root.WriteFile(dst, data, 0o600); err != nil {
				return "", err
			}
			if b.after != nil {
				b.after(b.root.Path(dst))
			}
			return "digest", check(b.root.Path(dst), "digest")
		}
	}
	if slices.ContainsFunc(errs, func(e error) bool { return !errors.Is(e, answer{"host-status"}) }) {
		return "", protocol.Judge(protocol.Later, errors.Join(errs...))
	}
	return "", protocol.Judge(protocol.Absent, errors.Join(errs...))
}

const (
	address = "https://a.example/x/WALinuxAgent__2.0.0.1.zip?sig=abc%3d"
	beside  = "https://a.example/x/WALinuxAgent__2.0.0.1.zip.sig?sig=abc%3d"
)

// bench returns a stager with one published version.
func bench(t *testing.T, ca *updatetest.Authority) (Stager, *blobs, *hosttest.Runner) {
	t.Helper()
	root := host.Root(t.TempDir())
	if err := root.MkdirAll(lib, 0o700); err != nil {
		t.Fatal(err)
	}
	b := &blobs{root: root, at: map[string][]byte{}, m: protocol.Manifest{Versions: []protocol.PackageVersion{{Version: "2.0.0.1", URIs: []secret.URL{secret.NewURL(address)}}}}}
	run := &hosttest.Runner{Answers: map[string]hosttest.Answer{"*": {Stdout: "azguest 2.0.0.1 (go1.26, linux/amd64)\n"}}}
	return Stager{
		Store: Store{Root: root, Lib: lib}, Fetch: b, Run: run, Arch: runtime.GOARCH,
		Trust: Trust{Roots: ca.Pool(), Now: time.Now()},
	}, b, run
}

// program returns a file that looks like a program for this machine.
func program(t *testing.T) []byte {
	t.Helper()
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "386": elf.EM_386, "riscv64": elf.EM_RISCV}[runtime.GOARCH]
	b := make([]byte, 64) // an ELF header and nothing else
	copy(b, elf.ELFMAG)
	b[elf.EI_CLASS], b[elf.EI_DATA], b[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	b[16], b[18], b[20], b[52] = byte(elf.ET_EXEC), byte(machine), byte(elf.EV_CURRENT), 64
	return append(b, "a program"...)
}

// lie returns a package with an entry that claims to unpack to size bytes.
func lie(t *testing.T, size uint64, files ...updatetest.File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		out, err := w.Create(f.Name)
		if err == nil {
			_, err = out.Write(f.Data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.CreateRaw(&zip.FileHeader{Name: "zeros", Method: zip.Deflate, UncompressedSize64: size}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestStageGood(t *testing.T) {
	ca := updatetest.NewAuthority()
	s, b, run := bench(t, ca)
	prog := program(t)
	zip := updatetest.Zip(updatetest.Manifest("2.0.0.1"), updatetest.File{Name: "bin/azguest-" + runtime.GOARCH, Data: prog}, updatetest.File{Name: "bin/azguest", Data: []byte("another machine's")})
	sig := ca.Sign(zip, nil)
	for form, sig := range map[string][]byte{
		"DER": sig, "base64": []byte(base64.StdEncoding.EncodeToString(sig) + "\n"),
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "CMS", Bytes: sig}),
	} {
		t.Run(form, func(t *testing.T) {
			if err := s.Root.RemoveAll(lib + "/WALinuxAgent-2.0.0.1"); err != nil {
				t.Fatal(err)
			}
			b.at[address], b.at[beside], b.asked = zip, sig, nil
			p, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(p.Path)
			if err != nil || !bytes.Equal(got, prog) {
				t.Errorf("the program at %s is not the one of the package (%v)", p.Path, err)
			}
			if want := []string{"WALinuxAgent__2.0.0.1.zip.sig", "WALinuxAgent__2.0.0.1.zip"}; !cmp.Equal(b.asked, want) {
				t.Errorf("asked for %v, want %v", b.asked, want)
			}
		})
	}
	if names, _ := s.Root.Glob(lib + "/azguest/*.zip*"); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
	b.asked = nil
	if _, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil); err != nil || b.asked != nil {
		t.Errorf("staged again: %v, asked for %v", err, b.asked)
	}
	// The order of the checks: the program is run only after all others.
	if n := len(run.Commands()); n != 3 {
		t.Errorf("the program ran %d times, want once for each package", n)
	}
	// Pruning keeps versions in use, and never touches directories of others.
	if err := errors.Join(s.Root.MkdirAll(lib+"/WALinuxAgent-1.9.9.9/bin", 0o755), s.Root.MkdirAll(lib+"/azguest/stage-X", 0o700), s.Root.MkdirAll(lib+"/P.T-1.0", 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := s.Prune("2.0.0.1"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"/WALinuxAgent-2.0.0.1": true, "/WALinuxAgent-1.9.9.9": true, "/P.T-1.0": true, "/azguest/stage-X": false} {
		if s.Root.Exists(lib+name) != want {
			t.Errorf("%s there: %v, want %v", name, !want, want)
		}
	}
	if err := s.Prune("3.0"); err != nil || s.Root.Exists(lib+"/WALinuxAgent-2.0.0.1") {
		t.Errorf("an old version of ours is kept (%v)", err)
	}
}

// TestTamper: everything that is not exactly what was signed for this agent is
// refused before anything is unpacked or run.
func TestTamper(t *testing.T) {
	ca, other := updatetest.NewAuthority(), updatetest.NewAuthority()
	prog := updatetest.File{Name: "bin/azguest", Data: program(t)}
	good := updatetest.Zip(updatetest.Manifest("2.0.0.1"), prog)
	flip := func(b []byte, at int) []byte {
		c := bytes.Clone(b)
		c[at] ^= 1
		return c
	}
	signed := func(zip []byte) ([]byte, []byte) { return zip, ca.Sign(zip, nil) }
	with := func(change func(*x509.Certificate)) func() ([]byte, []byte) {
		return func() ([]byte, []byte) { return good, ca.Sign(good, change) }
	}
	zipped := func(files ...updatetest.File) func() ([]byte, []byte) {
		return func() ([]byte, []byte) { return signed(updatetest.Zip(files...)) }
	}
	m := updatetest.Manifest("2.0.0.1")
	for name, tc := range map[string]struct {
		make func() (zip, sig []byte)
		code string
		loud string // part of the message
	}{
		"unsigned":             {func() ([]byte, []byte) { return good, nil }, codeUnsigned, "no signature"},
		"empty signature":      {func() ([]byte, []byte) { return good, []byte{} }, codeUnsigned, "no signature"},
		"first bit":            {func() ([]byte, []byte) { return flip(good, 0), ca.Sign(good, nil) }, codeUnsigned, "changed"},
		"middle bit":           {func() ([]byte, []byte) { return flip(good, len(good)/2), ca.Sign(good, nil) }, codeUnsigned, "changed"},
		"last bit":             {func() ([]byte, []byte) { return flip(good, len(good)-1), ca.Sign(good, nil) }, codeFailed, "not a whole zip"},
		"appended":             {func() ([]byte, []byte) { return append(bytes.Clone(good), 0), ca.Sign(good, nil) }, codeUnsigned, "changed"},
		"cut":                  {func() ([]byte, []byte) { return good[:len(good)-9], ca.Sign(good, nil) }, codeFailed, "not a whole zip"},
		"signature of another": {func() ([]byte, []byte) { return good, ca.Sign([]byte("x"), nil) }, codeUnsigned, "changed"},
		"signature bit":        {func() ([]byte, []byte) { s := ca.Sign(good, nil); return good, flip(s, len(s)-1) }, codeUnsigned, ""},
		"signature rubbish":    {func() ([]byte, []byte) { return good, []byte("hello") }, codeUnsigned, ""},
		"untrusted":            {func() ([]byte, []byte) { return good, other.Sign(good, nil) }, codeUnsigned, "verify signer"},
		"expired":              {with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }), codeUnsigned, "expired"},
		"not yet":              {with(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), codeUnsigned, "clock"},
		"wrong EKU":            {with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), codeUnsigned, "not for signing"},
		"no EKU":               {with(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), codeUnsigned, "not for signing"},
		"python":               {func() ([]byte, []byte) { return signed(updatetest.Python("2.0.0.1")) }, codeForeign, "another agent"},
		"old version":          {zipped(updatetest.Manifest("1.9.0.0"), prog), codeRefused, "1.9.0.0"},
		"swapped publisher":    {zipped(updatetest.File{Name: m.Name, Data: bytes.Replace(m.Data, []byte(`"Azguest"`), []byte(`"Contoso"`), 1)}, prog), codeForeign, "Contoso"},
		"no manifest":          {zipped(prog), codeForeign, "HandlerManifest"},
		"broken manifest":      {zipped(updatetest.File{Name: m.Name, Data: []byte("[")}, prog), codeForeign, "HandlerManifest"},
		"empty manifest":       {zipped(updatetest.File{Name: m.Name, Data: []byte("[]")}, prog), codeForeign, "HandlerManifest"},
		"no zip":               {func() ([]byte, []byte) { return signed([]byte("PK nothing")) }, codeForeign, "not a zip file"},
		"climbs":               {zipped(m, prog, updatetest.File{Name: "../../evil"}), codeForeign, "evil"},
		"absolute":             {zipped(m, prog, updatetest.File{Name: "/etc/evil"}), codeForeign, "evil"},
		"backslash":            {zipped(m, prog, updatetest.File{Name: `..\evil`}), codeForeign, "evil"},
		"twice":                {zipped(m, prog, updatetest.File{Name: "bin/./azguest"}), codeForeign, "duplicate"},
		"bomb":                 {func() ([]byte, []byte) { return signed(lie(t, 1<<40, m, prog)) }, codeForeign, "unpacks"},
		"small bomb":           {func() ([]byte, []byte) { return signed(lie(t, 1<<20, m, prog)) }, codeForeign, "unpacks"},
		"no program":           {zipped(m, updatetest.File{Name: "bin/agent", Data: prog.Data}), codeForeign, "no program"},
		"script":               {zipped(m, updatetest.File{Name: "bin/azguest", Data: []byte("#!/bin/sh\n")}), codeForeign, "is not a program"},
		"other machine":        {zipped(m, updatetest.File{Name: "bin/azguest", Data: elfFor(prog.Data)}), codeForeign, "this machine is"},
	} {
		t.Run(name, func(t *testing.T) {
			s, b, run := bench(t, ca)
			zip, sig := tc.make()
			b.at[address] = zip
			if sig != nil {
				b.at[beside] = sig
			}
			_, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil)
			if err == nil || CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.loud) {
				t.Fatalf("Stage: %v (%s), want %s with %q", err, CodeOf(err), tc.code, tc.loud)
			}
			if Final(err) == (tc.code == codeFailed) {
				t.Errorf("final: %v", Final(err)) // a final one is not tried again; what was cut on the way is
			}
			if len(run.Commands()) > 0 {
				t.Errorf("something ran: %v", run.Commands())
			}
			clean(t, s)
		})
	}
}

// elfFor returns the program changed to one for another machine.
func elfFor(b []byte) []byte {
	c := bytes.Clone(b)
	c[18], c[19] = 22, 0 // EM_S390
	return c
}

// clean fails the test if a refused package has left anything.
func clean(t *testing.T, s Stager) {
	t.Helper()
	top := s.Root.Path("/")
	err := filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		t.Errorf("left: %s", strings.TrimPrefix(p, top))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestReplaceBetweenVerifyAndExtract: the name is given to another file as soon
// as the package is opened; what is unpacked are the verified bytes.
func TestReplaceBetweenVerifyAndExtract(t *testing.T) {
	ca := updatetest.NewAuthority()
	s, b, run := bench(t, ca)
	good := updatetest.Zip(updatetest.Manifest("2.0.0.1"), updatetest.File{Name: "bin/azguest", Data: program(t)})
	b.at[address], b.at[beside] = good, ca.Sign(good, nil)
	zip := s.Root.Path(lib + "/azguest/WALinuxAgent-2.0.0.1.zip")
	evil := updatetest.Zip(updatetest.Manifest("2.0.0.1"), updatetest.File{Name: "bin/azguest", Data: append(program(t), "evil"...)})
	done := make(chan struct{})
	ready := make(chan struct{})
	b.after = func(dst string) {
		if dst != zip {
			return
		}
		go func() {
			defer close(done)
			close(ready)
			for range 200 { // before, between and after
				_ = os.WriteFile(zip+".new", evil, 0o600)
				_ = os.Rename(zip+".new", zip)
			}
		}()
		<-ready
	}
	p, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil)
	<-done
	if err != nil {
		if CodeOf(err) != codeUnsigned || len(run.Commands()) > 0 {
			t.Errorf("replaced before it was opened: %v, ran %v", err, run.Commands())
		}
		return
	}
	got, err := os.ReadFile(p.Path)
	if err != nil || bytes.HasSuffix(got, []byte("evil")) {
		t.Errorf("the replaced file was unpacked (%v)", err)
	}
}

func TestTrust(t *testing.T) {
	ca := updatetest.NewAuthority()
	good := updatetest.Zip(updatetest.Manifest("2.0.0.1"), updatetest.File{Name: "bin/azguest", Data: program(t)})
	t.Run("no roots", func(t *testing.T) {
		s, b, _ := bench(t, ca)
		s.Trust.Roots = nil
		b.at[address], b.at[beside] = good, ca.Sign(good, nil)
		_, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil)
		if CodeOf(err) != codeUnsigned || !strings.Contains(err.Error(), "TrustRoots") || len(b.asked) > 1 {
			t.Errorf("%v; asked for %v", err, b.asked)
		}
	})
	t.Run("unsigned allowed", func(t *testing.T) {
		s, b, _ := bench(t, ca)
		s.Trust = Trust{Unsigned: true, Now: time.Now()}
		b.at[address] = good
		if _, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil); err != nil {
			t.Error(err)
		}
		// Strict again: what was staged without a signature is not used.
		s.Trust.Unsigned = false
		if _, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil); CodeOf(err) != codeUnsigned {
			t.Errorf("used although nobody signed it: %v", err)
		}
	})
	t.Run("unsigned allowed, wrong signature", func(t *testing.T) {
		s, b, _ := bench(t, ca)
		s.Trust.Unsigned = true
		b.at[address], b.at[beside] = good, ca.Sign([]byte("x"), nil)
		if _, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil); CodeOf(err) != codeUnsigned {
			t.Error(err)
		}
	})
	t.Run("signature can't be had", func(t *testing.T) {
		for _, allowed := range []bool{false, true} {
			s, b, _ := bench(t, ca)
			s.Trust.Unsigned = allowed
			b.at[address], b.at[beside] = good, nil
			_, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil)
			if err == nil || Final(err) {
				t.Errorf("allowed %v: %v", allowed, err)
			}
		}
	})
	t.Run("roots file", func(t *testing.T) {
		dir := t.TempDir()
		if p, err := LoadRoots(dir + "/none"); p != nil || err != nil {
			t.Errorf("absent: %v %v", p, err)
		}
		for name, text := range map[string]string{"empty": "", "key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "rubbish": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
			if err := os.WriteFile(dir+"/f", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if p, err := LoadRoots(dir + "/f"); p != nil || err == nil {
				t.Errorf("%s: %v %v", name, p, err)
			}
		}
		if err := os.WriteFile(dir+"/f", append([]byte("# ours\n"), ca.PEM()...), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := LoadRoots(dir + "/f"); p == nil || err != nil {
			t.Errorf("good: %v %v", p, err)
		}
	})
}

func TestStageRefusals(t *testing.T) {
	ca := updatetest.NewAuthority()
	good := updatetest.Zip(updatetest.Manifest("2.0.0.1"), updatetest.File{Name: "bin/azguest", Data: program(t)})
	t.Run("not in the manifest", func(t *testing.T) {
		s, _, _ := bench(t, ca)
		if _, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.2", nil); err == nil || Final(err) {
			t.Error(err)
		}
	})
	t.Run("calls itself otherwise", func(t *testing.T) {
		s, b, run := bench(t, ca)
		b.at[address], b.at[beside] = good, ca.Sign(good, nil)
		run.Answers["*"] = hosttest.Answer{Stdout: "azguest 1.0 (x)"}
		if _, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil); CodeOf(err) != codeRefused {
			t.Error(err)
		}
		clean(t, s)
	})
	t.Run("can't be run", func(t *testing.T) {
		s, b, run := bench(t, ca)
		b.at[address], b.at[beside] = good, ca.Sign(good, nil)
		run.Answers["*"] = hosttest.Answer{Do: func(host.Cmd) error { return errors.New("exec format error") }}
		if _, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil); CodeOf(err) != codeForeign {
			t.Error(err)
		}
		clean(t, s)
	})
	t.Run("the classic agent's directory", func(t *testing.T) {
		s, b, _ := bench(t, ca)
		b.at[address], b.at[beside] = good, ca.Sign(good, nil)
		if err := s.Root.MkdirAll(lib+"/WALinuxAgent-2.0.0.1", 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil); err == nil {
			t.Error("replaced somebody else's directory")
		}
	})
}

// TestOpenSSL: signatures as scripts/update-package makes them.
func TestOpenSSL(t *testing.T) {
	tool, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(tool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	if err := os.WriteFile(dir+"/zip", []byte("the package\r\n\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	run("req", "-x509", "-newkey", "rsa:3072", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Root", "-days", "2")
	run("req", "-newkey", "rsa:3072", "-nodes", "-keyout", "key", "-out", "csr", "-subj", "/CN=Release")
	if err := os.WriteFile(dir+"/ext", []byte("extendedKeyUsage=codeSigning\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run("x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext", "-days", "1", "-out", "cert")
	run("cms", "-sign", "-binary", "-md", "sha384", "-signer", "cert", "-inkey", "key", "-outform", "DER", "-in", "zip", "-out", "sig")
	roots, err := LoadRoots(dir + "/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := os.ReadFile(dir + "/sig")
	if err != nil {
		t.Fatal(err)
	}
	trust := Trust{Roots: roots, Now: time.Now().Add(time.Minute)}
	if who, err := trust.Verify(strings.NewReader("the package\r\n\x00"), sig); err != nil || who != "Release" {
		t.Errorf("Verify: %q, %v", who, err)
	}
	if _, err := trust.Verify(strings.NewReader("the package\n\x00"), sig); CodeOf(err) != codeUnsigned {
		t.Errorf("changed: %v", err)
	}
}

// TestSEC7PackagesAreCountedAsTheDiskDoes: directories that are only part of a
// name count, and so do the blocks of small files.
func TestSEC7PackagesAreCountedAsTheDiskDoes(t *testing.T) {
	t.Parallel()
	many := func(n int, name func(i int) string) []byte {
		var files []updatetest.File
		for i := range n {
			files = append(files, updatetest.File{Name: name(i), Data: []byte("x")})
		}
		return updatetest.Zip(append(files, updatetest.Manifest("2.0.0.1"))...)
	}
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"implied directories": {many(40, func(i int) string { return strings.Repeat(strconv.Itoa(i)+"/", 15) + "x" }), "200 times its size"},
		"files":               {many(600, strconv.Itoa), "500 files and directories"},
		"entries":             {many(20_000, strconv.Itoa), "bytes in the zip directory"},
		"deep for its size":   {many(25, func(i int) string { return strings.Repeat(strconv.Itoa(i%3)+"/", 15) + strconv.Itoa(i) }), ""},
	} {
		_, err := open(bytes.NewReader(tc.data), int64(len(tc.data)), "2.0.0.1")
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s, %d bytes: %v, want %q", name, len(tc.data), err, tc.want)
		}
	}
}

func FuzzPackage(f *testing.F) {
	f.Add(updatetest.Python("2.0.0.1"))
	f.Add(updatetest.Zip(updatetest.Manifest("2.0.0.1"), updatetest.File{Name: "bin/azguest", Data: []byte("x")}))
	f.Fuzz(peak.Target(func(t *testing.T, data []byte) {
		z, err := open(bytes.NewReader(data), int64(len(data)), "2.0.0.1")
		if err != nil {
			return
		}
		top := t.TempDir()
		if err := unpack(z, top+"/in"); err == nil {
			_, _ = binary(top+"/in", runtime.GOARCH)
		}
		entries, err := os.ReadDir(top)
		if err != nil || len(entries) > 1 {
			t.Fatalf("outside of the directory: %v %v", entries, err)
		}
	}))
}

func FuzzSignature(f *testing.F) {
	ca := updatetest.NewAuthority()
	f.Add(ca.Sign([]byte("x"), nil))
	f.Add([]byte("MIIB"))
	trust := Trust{Roots: updatetest.NewAuthority().Pool(), Now: time.Now()}
	f.Fuzz(peak.Target(func(t *testing.T, sig []byte) {
		if _, err := trust.Verify(strings.NewReader("x"), sig); err == nil {
			t.Fatal("accepted")
		}
	}))
}

// TestPAT1SignatureOutage: while the signature of a package can't be had, the
// package is not taken for one without, also where that would do, and the
// version is not refused. What was received of other versions is removed.
func TestPAT1SignatureOutage(t *testing.T) {
	t.Parallel()
	ca := updatetest.NewAuthority()
	s, b, _ := bench(t, ca)
	s.Trust.Unsigned = true
	zip := updatetest.Zip(updatetest.Manifest("2.0.0.1"), updatetest.File{Name: "bin/azguest", Data: program(t)})
	b.at[address], b.at[beside] = zip, nil // no answer
	for range 3 {
		_, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil)
		if err == nil || Final(err) || slices.Contains(b.asked, "WALinuxAgent__2.0.0.1.zip") {
			t.Fatalf("%v, asked for %q", err, b.asked)
		}
	}
	parts := []string{lib + "/azguest/WALinuxAgent-1.9.zip" + host.PartSuffix, lib + "/azguest/WALinuxAgent-2.0.0.1.zip" + host.PartSuffix}
	for _, p := range parts {
		if err := s.Root.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.at[beside] = ca.Sign(zip, nil)
	if _, err := s.Stage(t.Context(), protocol.AgentFamily{}, "2.0.0.1", nil); err != nil {
		t.Fatal(err)
	}
	if s.Root.Exists(parts[0]) || !s.Root.Exists(parts[1]) {
		t.Errorf("parts: of another version %v, of this one %v", s.Root.Exists(parts[0]), s.Root.Exists(parts[1]))
	}
}

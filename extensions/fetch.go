package extensions

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// decision is which package is used for a handler in one goal state.
type decision struct {
	version  string
	manifest protocol.Manifest
	pkg      protocol.PackageVersion
	err      error
	side     bool // the package is a file that an operator has put there
}

// sideFile is where an operator puts the package of a version, for machines
// that can't reach it (extensions/SPEC.md §2.9).
func (w *work) sideFile(version string) string {
	return w.m.store.Root.Path(w.m.store.Lib + "/" + w.name + "__" + version + ".zip")
}

// fetch installs the package of a version in the handler's directory and
// initializes that. The package comes from a file that an operator has put
// there, from an earlier download, or from the platform.
func (w *work) fetch(ctx context.Context) error {
	t := w.task
	r := w.rec(t.Version)
	r.Multi = w.wish.Multi
	r, err := w.obtain(ctx, r)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		if errors.Is(cause, errOutdated) {
			return nil
		}
		if !errors.Is(cause, errCancelled) {
			return cause
		}
		err = cancelled("while its package was downloaded").Err()
	}
	p := fault.Problem{Code: fault.CodeDownload, Cause: fault.CauseOf(err, fault.CauseDownload)}
	if err == nil {
		if p.Code, err = w.initialize(&r); err != nil {
			p.Cause = fault.CauseOf(err, fault.CauseOfCode(p.Code))
		}
	}
	if err != nil {
		p.Text = err.Error()
		if errors.Is(err, errDenied) {
			p.Code = fault.CodeEnable
		} else if p.Code == fault.CodeDownload {
			p.Text = "Failed to download artifacts: [ExtensionDownloadError] " + p.Text
		}
		if w.waitFor("its package", err, p) {
			return nil
		}
		w.emit(t.Version, plan.Fetch, false, err.Error(), 0)
		return w.failTarget(r.Fail(plan.Fetch), p)
	}
	w.arrived()
	r, err = r.Done(plan.Fetch, "")
	if err != nil {
		return err
	}
	r.Change, r.FailKey, r.Awaited = nil, "", nil
	w.say("", "Initialize extension directory")
	w.emit(t.Version, plan.Fetch, true, "Download succeeded", 0)
	return w.put(r)
}

// obtain gets a package and unpacks it into the handler's directory.
func (w *work) obtain(ctx context.Context, r store.Record) (store.Record, error) {
	side := w.sideFile(r.Version)
	if _, err := folder.Root.Lstat(side); err == nil {
		got, err := w.accept(ctx, r, side, "")
		if err == nil {
			return got, nil
		}
		// Like other agents, replace an invalid file.
		_ = folder.Root.RemoveAll(side)
		if w.dec != nil && w.dec.side {
			w.dec = nil // the manifest says where another one is
			return r, protocol.Judge(protocol.Later, fmt.Errorf("%s: %w", w.name+"__"+r.Version+".zip", err))
		}
	}
	kept := w.m.store.Sub("packages", r.Name+"-"+r.Version+".zip")
	if want, err := folder.Root.ReadBounded(store.SumFile(kept), 1024); err == nil {
		if got, err := w.accept(ctx, r, kept, strings.TrimSpace(string(want))); err == nil {
			return got, nil
		}
	}
	w.m.store.DropPackage(r.Name, r.Version)
	switch {
	case w.dec == nil:
		return r, errors.New("no package was selected")
	case w.dec.err != nil:
		return r, fmt.Errorf("no package was selected: %w", w.dec.err)
	}
	if len(w.dec.pkg.URIs) == 0 {
		return r, errors.New("no package uri found")
	}
	if err := w.m.store.CheckRoom(w.m.cfg.PackageLimit); err != nil {
		return r, protocol.Judge(protocol.Later, err)
	}
	var got store.Record
	_, err := w.m.fetch.Package(ctx, w.dec.manifest, w.dec.pkg, kept, w.m.cfg.PackageLimit, func(file, sum string) (err error) {
		if got, err = w.accept(ctx, r, file, sum); err != nil && !errors.Is(err, errGarbled) {
			// What was received whole is judged here, once for all addresses.
			err = protocol.Judge(protocol.OutlookOf(err, protocol.Never), err)
		}
		return err
	})
	if err == nil {
		if err := folder.Root.WriteFile(store.SumFile(kept), []byte(got.Digest+"\n"), 0o600); err != nil {
			return got, fmt.Errorf("save package: %w", err)
		}
		return got, nil
	}
	w.m.store.DropPackage(r.Name, r.Version)
	if protocol.OutlookOf(err, protocol.Never) == protocol.Absent || protocol.Expired(err) && !protocol.NextTry(err).Equal(w.asked) {
		w.dec = nil // the manifest may name other addresses by now
	}
	return r, fmt.Errorf("Failed to download %s-%s from all URIs. Last error: download %s-%s: %w", r.Name, r.Version, r.Name, r.Version, err) //nolint:staticcheck // tools look for this sentence
}

// accept verifies a package and unpacks it into the handler's directory. sum is
// its expected SHA-256 in hex, or "".
func (w *work) accept(ctx context.Context, r store.Record, file, sum string) (store.Record, error) {
	f, err := folder.OpenFile(file)
	if err != nil {
		return r, fmt.Errorf("open package: %w", err)
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, w.m.cfg.PackageLimit+1))
	if n > w.m.cfg.PackageLimit {
		err = fmt.Errorf("%w: more than %d bytes", errBundle, w.m.cfg.PackageLimit)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return r, fmt.Errorf("read package: %w", err)
	}
	digest := hex.EncodeToString(h.Sum(nil))
	if sum != "" && !strings.EqualFold(sum, digest) {
		return r, fmt.Errorf("%w: SHA-256 is %s, want %s", errBundle, digest, sum)
	}
	signer, err := w.verify(ctx, file)
	if err != nil {
		if _, c, _, zerr := openBundle(file); zerr == nil {
			_ = c.Close()
		} else if errors.Is(zerr, errGarbled) {
			return r, zerr // then the signature says nothing
		}
		if ctx.Err() == nil {
			w.m.auditLog(store.AuditEntry{What: "deny", Handler: r.Name, Version: r.Version, GoalState: w.key(), Digest: digest, Code: fault.CodeDownload, Text: secret.Redact(err.Error())})
		}
		return r, err
	}
	tmp := w.m.store.Sub("tmp", store.NewID())
	if err := unpack(file, tmp, w.m.cfg.UnpackLimit); err != nil {
		return r, err
	}
	r.Packager = usesPackageManager(tmp)
	if err := w.m.store.Place(tmp, r.Name, r.Version); err != nil {
		return r, errors.Join(err, folder.Root.RemoveAll(tmp))
	}
	r.Digest, r.Signer = digest, signer
	w.m.auditLog(store.AuditEntry{What: "package", Handler: r.Name, Version: r.Version, Digest: digest, Signer: signer})
	return r, nil
}

// initialize creates the rest of a handler's directory (extensions/SPEC.md §4.3).
func (w *work) initialize(r *store.Record) (code int, err error) {
	base := w.m.store.Base(r.Name, r.Version)
	if err := folder.MakeAll(base); err != nil {
		return fault.CodeDownload, fmt.Errorf("initialize handler: %w", err)
	}
	if err := w.m.environment(r.Name, r.Version); err != nil {
		return fault.CodeDownload, err
	}
	hm, err := w.m.store.Manifest(r.Name, r.Version)
	if err != nil {
		return store.ManifestCode(err), err
	}
	for _, key := range hm.Odd {
		w.emitNamed("ExtensionHandlerManifest", false, "HandlerManifest.json: "+key+" is not a boolean, using the default")
	}
	if w.wish.Multi && !hm.Multi {
		return fault.CodeOther, fault.Because(fault.CauseSettings, fmt.Errorf("Ran into config errors: Handler %s does not support MultiConfig but CRP expects it, failing due to inconsistent data. \nPlease retry again as another operation with updated settings", r.Name)) //nolint:staticcheck // tools look for this sentence
	}
	marker := base + "/package_validated"
	why := hm.SignedAs(r.Name, r.Version)
	switch {
	case r.Signer == "":
	case why == "":
		w.signed("PackageSigningInfoResult", fmt.Sprintf("Successfully validated handler manifest 'signingInfo' for extension '%s-%s'", r.Name, r.Version))
	default:
		w.emitNamed("PackageSigningInfoResult", false, why)
		w.m.log.Warn().Str("handler", r.Name).Str("why", why).Msg("package is signed for another handler or version")
	}
	if r.Signer != "" && why == "" {
		if err := folder.Write(base, marker, nil, 0o600); err != nil {
			return fault.CodeDownload, err
		}
	} else if err := folder.Root.Remove(marker); err != nil {
		return fault.CodeDownload, err
	}
	// With this file WALinuxAgent would know it as not installed.
	return 0, folder.Write(base, base+"/config/HandlerState", []byte("NotInstalled"), 0o600)
}

// environment writes HandlerEnvironment.json and creates the log folders that
// it names.
func (m *Manager) environment(name, version string) error {
	logs := m.store.LogDir(name)
	d, err := m.logFolder(name)
	if err == nil {
		err = d.Close()
	}
	if errors.Is(err, host.ErrUnsafe) {
		// The folder was replaced by the handler or somebody else. The agent
		// does not write there.
		m.log.Warn().Err(err).Str("code", codeLogFolder).Str("handler", name).Msg("log folder is not usable")
	} else if err != nil {
		return err
	}
	base := m.store.Base(name, version)
	if err := m.store.CheckBase(name, version); err != nil {
		return fmt.Errorf("write handler environment: %w", err)
	}
	return folder.Write(base, base+"/"+handler.EnvironmentName, handler.EnvironmentFile(name, logs, base), 0o644)
}

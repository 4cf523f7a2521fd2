package extensions

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/extensions/store"
)

// ErrNoTrust is returned by Config.Verify if no signing certificate is trusted
// on this machine, so that signatures can't be checked.
var ErrNoTrust = errors.New("no certificate is trusted to sign extensions")

// verify checks the signature of a package before it is unpacked, and whether
// the policy allows the signer.
func (w *work) verify(ctx context.Context, file string) (signer string, err error) {
	required := w.m.cfg.RequireSignature
	if p := w.policy(); p.Enforces() && p.Policy.NeedsSignature(w.name) {
		required = true
	}
	if signer, err = w.verified(ctx, file, required); err != nil {
		return "", err
	}
	// Check the policy again, now with the signer.
	if p := w.policy(); p.Enforces() {
		if why := p.Deny(w.name, w.task.Version, signer, false); !why.None() {
			return "", fault.Because(why.Cause, fmt.Errorf("%s (%w)", why.Text, errDenied))
		}
	}
	return signer, nil
}

func (w *work) policy() policy.Effective {
	if w.pass == nil {
		return policy.Effective{}
	}
	return w.pass.policy
}

var errDenied = errors.New("denied by policy")

// verified checks the signature. If one is required, it also checks that the
// package was signed for this handler and version, because the package of
// another handler has a valid signature, too (extensions/SPEC.md §3.6).
func (w *work) verified(ctx context.Context, file string, required bool) (signer string, err error) {
	refuse := func(err error) (string, error) {
		return "", fault.Because(fault.CausePolicyUnsigned, fmt.Errorf("%w: %s: %w", errBundle, fault.CausePolicyUnsigned, err))
	}
	if w.m.cfg.Verify == nil {
		if required {
			return refuse(errors.New("a signature is required but cannot be verified"))
		}
		return "", nil
	}
	signature := ""
	if w.want != nil {
		signature = strings.TrimSpace(w.want.Signature)
	}
	if signature == "" {
		if required {
			return refuse(errors.New("a signature is required but the package is not signed"))
		}
		return "", nil
	}
	signer, err = w.m.cfg.Verify(ctx, file, signature)
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if required {
			w.emitNamed("PackageSignatureResult", false, err.Error())
			return refuse(err)
		}
		if !errors.Is(err, ErrNoTrust) {
			w.emitNamed("PackageSignatureResult", false, err.Error())
			w.m.log.Warn().Err(err).Str("handler", w.name).Msg("signature of the package is not valid")
		}
		return "", nil
	}
	w.signed("PackageSignatureResult", fmt.Sprintf("Successfully validated signature for package '%s-%s'", w.name, w.task.Version))
	if required {
		hm, err := manifestInside(file)
		if err != nil {
			return refuse(err)
		}
		if why := hm.SignedAs(w.name, w.task.Version); why != "" {
			return refuse(errors.New(why))
		}
	}
	return signer, nil
}

// signed logs a success in the wording of WALinuxAgent, which people search for
// (extensions/SPEC.md §2.6).
func (w *work) signed(op, text string) {
	w.emitNamed(op, true, text)
	w.m.log.Info().Str("handler", w.name).Msg(text)
}

// manifestInside reads the manifest from a package, the same one that unpack
// uses.
func manifestInside(file string) (handler.Manifest, error) {
	z, closer, _, err := openBundle(file)
	if err != nil {
		return handler.Manifest{}, fmt.Errorf("read package: %w", err)
	}
	defer closer.Close()
	var best *zip.File
	for _, f := range z.File {
		name := strings.ReplaceAll(f.Name, `\`, "/")
		if path.Base(name) == handler.ManifestName && (best == nil || depth(path.Clean(name)) < depth(path.Clean(strings.ReplaceAll(best.Name, `\`, "/")))) {
			best = f
		}
	}
	if best == nil {
		return handler.Manifest{}, fmt.Errorf("%s not found", handler.ManifestName)
	}
	r, err := best.Open()
	if err != nil {
		return handler.Manifest{}, fmt.Errorf("read package: %w", err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, handler.MaxManifest))
	if err != nil {
		return handler.Manifest{}, fmt.Errorf("read package: %w", err)
	}
	return handler.ParseManifest(data)
}

// unproven returns why an installed package must not run under a policy that
// requires signatures; the zero value if it may run. Such a package was
// installed before the policy, or by another agent.
func (m *Manager) unproven(p policy.Effective, r store.Record) fault.Problem {
	if p.Mode != policy.Audit && !p.Enforces() || p.Err != nil || !p.Policy.NeedsSignature(r.Name) {
		return fault.Problem{}
	}
	if r.State == "" || r.State == plan.Absent || r.State == plan.Broken || r.Signer != "" {
		return fault.Problem{} // not installed, to be fetched again, or verified
	}
	if _, err := folder.Root.Lstat(m.store.Base(r.Name, r.Version) + "/package_validated"); err == nil {
		return fault.Problem{}
	}
	return fault.Problem{Code: fault.CodeEnable, Cause: fault.CausePolicyUnsigned, Text: fmt.Sprintf("Extension will not be processed: failed to run extension '%s' because its package was installed without a valid signature, and the policy ('%s') requires one. To run, uninstall it and install it again (%s).", r.Name, p.File, fault.CausePolicyUnsigned)}
}

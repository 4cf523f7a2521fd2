package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol/imds"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/userdata"
)

// vendorDir has the documents of the vendor of an image.
const vendorDir = "/usr/lib/azguest/vendor-data.d"

// maxVendorFiles bounds the files in it.
const maxVendorFiles = 100

// problemUserData is what problems of user data are shown as.
const problemUserData = "user data"

// applyUserData carries out the user data and vendor data as far as that is left
// to do in this boot (provisioning/SPEC.md §18). Extensions wait for it. It does
// nothing if it is switched off, or if the machine is not provisioned.
func (a *Agent) applyUserData(ctx context.Context, m *provisioning.Machine) {
	if !a.cfg.UserData.Apply || ctx.Err() != nil {
		return
	}
	if st, err := m.Stand(); err != nil || st != provisioning.Provisioned && st != provisioning.Adopted {
		return
	}
	a.showUserData(status.UserData{State: status.DataWaiting, Waiting: "the documents"})
	store := userdata.Store{Root: a.Root, Dir: m.Options.Dir()}
	r := userdata.Runner{
		Machine: m, Launcher: a.Launcher, Scoped: cgroup.HasSystemd(), Timeout: a.cfg.UserData.ScriptTimeout, User: a.account,
		Fetch: func(ctx context.Context) ([]userdata.Document, []userdata.Problem, error) {
			return a.userDocuments(ctx, m)
		},
		Observe: func(p provisioning.Progress) {
			a.observeUserData(store, p)
		},
	}
	j, err := r.Run(ctx)
	if ctx.Err() != nil {
		return // the next start goes on
	}
	if err != nil {
		code := provisioning.CodeOf(err)
		a.Log.Error().Err(err).Str("code", code).Msg("user data not carried out")
		a.live.problem(problemUserData, code, fixOf(code), err)
		a.showUserData(status.UserData{State: status.DataFailed})
		return
	}
	a.userDataDone(j)
}

// leaveUserData shows that another program carries the user data out, if it is
// switched on here.
func (a *Agent) leaveUserData() {
	if a.cfg.UserData.Apply {
		a.showUserData(status.UserData{State: status.DataLeft})
	}
}

func (a *Agent) showUserData(d status.UserData) {
	a.live.set(func(s *status.Snapshot) { s.UserData = &d })
}

// observeUserData shows progress.
func (a *Agent) observeUserData(store userdata.Store, p provisioning.Progress) {
	if p.State == provisioning.Doing || p.State == provisioning.Done || p.State == provisioning.Broken {
		a.Log.Debug().Str("item", p.Step.String()).Str("state", string(p.State)).Dur("took", p.Took).Msg("item of user data")
		if j, err := store.Journal(); err == nil {
			a.showUserData(dataStatus(j, status.DataRunning))
		}
	}
	if a.dieAt != nil {
		a.dieAt(p)
	}
}

func dataStatus(j userdata.Journal, state string) status.UserData {
	d := status.UserData{State: state, Finished: j.Finished, Items: len(j.Items), Bad: len(j.Bad())}
	for _, e := range j.Items {
		if e.State == userdata.Done || e.State == userdata.Skipped || e.State == userdata.Warned {
			d.Done++
		}
	}
	return d
}

// userDataDone shows and logs what became of the user data.
func (a *Agent) userDataDone(j userdata.Journal) {
	faults, bad := j.News(a.Root.BootID())
	for i, p := range faults {
		a.Log.Warn().Str("code", p.ID).Str("at", p.At.String()).Str("key", p.Key).Str("fault", p.Text).Msg("fault in user data")
		if i == 0 {
			text := p.Error()
			if n := len(faults) - 1; n > 0 {
				text += fmt.Sprintf(" (and %d more: agentctl data status)", n)
			}
			a.live.problem(problemUserData, p.ID, fixOf(p.ID), errors.New(text))
		}
	}
	for _, p := range j.Foreign {
		a.Log.Info().Str("document", p.String()).Msg("neither a script nor a cloud-config, left alone")
	}
	for _, e := range bad {
		a.Log.Warn().Str("code", e.Code).Str("item", e.ID).Str("fault", e.Error).Msg("user data not carried out as it says")
		a.live.problem(problemUserData+" item "+e.ID, e.Code, fixOf(e.Code), errors.New(e.Error))
	}
	state := status.DataDone
	switch {
	case j.State == userdata.Refused:
		state = status.DataRefused
	case len(j.Items) == 0:
		state = status.DataNone
	}
	d := dataStatus(j, state)
	a.showUserData(d)
	a.Log.Info().Str("state", state).Int("items", d.Items).Int("done", d.Done).Msg("user data carried out")
}

// tidyUserData keeps the output of scripts within limits, also of what they have
// left running.
func (a *Agent) tidyUserData(ctx context.Context) error {
	var keeper job.Keeper
	runs := a.Root.Path(userdata.Store{Root: a.Root, Dir: a.provisioningOptions().WithDefaults().Dir()}.Runs())
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Minute):
		}
		if err := keeper.Tidy(runs); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.Log.Debug().Err(err).Msg("could not shorten the output of scripts")
		}
	}
}

// userDocuments returns the documents of this machine, lowest layer first, and
// what is wrong with the vendor's.
func (a *Agent) userDocuments(ctx context.Context, m *provisioning.Machine) ([]userdata.Document, []userdata.Problem, error) {
	i, err := a.awaitInstance(ctx)
	if err != nil {
		return nil, nil, err
	}
	var docs []userdata.Document
	var ps []userdata.Problem
	add := func(l userdata.Layer, field string, data []byte) {
		d := userdata.Document{Layer: l, Data: data}
		if slices.Contains(i.Compute.NotBase64, field) {
			d.Fault = "not base64"
		}
		if len(data) > 0 || d.Fault != "" {
			docs = append(docs, d)
		}
	}
	if a.cfg.UserData.VendorData {
		docs, ps = vendorFiles(a.Root)
		add(userdata.VendorPlatform, "vendorData", []byte(i.Compute.VendorData.Reveal()))
	}
	user := i.Compute.UserData.Reveal()
	// One byte more than is allowed: then it is refused.
	custom, err := m.CustomDataToApply(userdata.MaxDocument + 1)
	if err != nil {
		return nil, nil, fmt.Errorf("custom data: %w", err)
	}
	if !sameData(custom, user) {
		add(userdata.CustomData, "", custom)
	}
	add(userdata.UserData, "userData", []byte(user))
	return docs, ps, nil
}

// sameData reports whether custom data, as it is stored, is the user data: the
// provisioning takes the user data for custom data if there is no other
// (provisioning/SPEC.md §6.3).
func sameData(custom []byte, user string) bool {
	return string(custom) == user || user != "" && provisioning.DecodeCustomData(string(custom)).Data.Reveal() == user
}

// dataPatience is how long the metadata service is waited for: the network may
// still be coming up, and without an answer it is not known what is to be
// carried out.
var dataPatience = platform.MetadataPatience{Answered: 5 * time.Minute, Silent: 2 * time.Minute}

// awaitInstance asks the metadata service until it answers.
func (a *Agent) awaitInstance(ctx context.Context) (*imds.Instance, error) {
	i, err := a.platform.Instance(ctx)
	for began := time.Now(); err != nil; {
		if dataPatience.Left(err, began) <= 0 {
			return nil, fmt.Errorf("instance metadata: %w", err)
		}
		a.showUserData(status.UserData{State: status.DataWaiting, Waiting: "the metadata service"})
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(metadataAsk):
		}
		i, _, _, err = a.platform.FirstBoot(ctx, metadataTry)
	}
	return i, nil
}

// vendorFiles reads the documents of the image. They are what runs as root, so
// only files count that nobody else can change.
func vendorFiles(r host.Root) (docs []userdata.Document, ps []userdata.Problem) {
	bad := func(name string, err error) {
		ps = append(ps, userdata.Problem{ID: userdata.CodeFetch, At: userdata.Place{Layer: userdata.VendorFiles, Part: name}, Text: err.Error()})
	}
	entries, err := r.ReadDir(vendorDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = r.TrustedWay(vendorDir)
	}
	if err != nil {
		bad("", err)
		return nil, ps
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || e.IsDir() {
			continue
		}
		if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
			bad(strconv.QuoteToASCII(name), errors.New("the name has characters that cannot be shown"))
			continue
		}
		if len(docs) == maxVendorFiles {
			bad(name, fmt.Errorf("more than %d files", maxVendorFiles))
			break
		}
		b, err := readTrusted(r, path.Join(vendorDir, name), userdata.MaxDocument)
		if err != nil {
			bad(name, err)
			continue
		}
		docs = append(docs, userdata.Document{Layer: userdata.VendorFiles, Name: name, Data: b})
	}
	return docs, ps
}

// readTrusted reads a file that only root can change.
func readTrusted(r host.Root, name string, limit int64) ([]byte, error) {
	d, err := r.OpenDir(path.Dir(name), nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	if err := d.Trusted(); err != nil {
		return nil, err
	}
	b, fi, err := d.ReadBounded(path.Base(name), limit)
	if err != nil {
		return nil, err
	}
	st, err := d.Stat(path.Base(name))
	if err != nil {
		return nil, err
	}
	if fi.Mode().Perm()&0o022 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%w: others than root can change it", host.ErrUnsafe)
	}
	return b, nil
}

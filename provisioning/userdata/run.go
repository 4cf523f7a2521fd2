package userdata

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/provisioning"
)

// A Runner carries documents out. Every field is required, except Observe and
// User.
type Runner struct {
	Machine  *provisioning.Machine
	Launcher job.Launcher
	Scoped   bool          // systemd runs: each script gets a scope
	Timeout  time.Duration // of one script
	User     string        // the account of the order; "" if it is not known
	// Fetch returns the documents, lowest layer first, and what is wrong with
	// the vendor's. It is called once for a VM: later boots use what it has
	// returned then. An error means that it is to be asked again.
	Fetch   func(ctx context.Context) ([]Document, []Problem, error)
	Observe provisioning.Observer
}

// store returns where the state is.
func (r *Runner) store() Store { return Store{r.Machine.Root, r.Machine.Options.Dir()} }

// Run carries out what is left to do in this boot, and returns what has become
// of it. It returns an error if the documents or the state could not be read or
// written, and when the context ends; items that fail are in the journal.
func (r *Runner) Run(ctx context.Context) (Journal, error) {
	s := r.store()
	boot := s.Root.BootID()
	j, err := s.Journal()
	if err != nil {
		return j, err
	}
	if !provisioning.SameVM(j.VMID, r.Machine.VM.ID) {
		if s.began(r.Machine.VM.ID) {
			return j, fault(CodeState, fmt.Errorf("the journal was lost, so it is not known what has run: nothing more is carried out; to begin anew, delete %s", s.path(path.Dir(beganName))))
		}
		j = Journal{VMID: r.Machine.VM.ID}
	}
	if j.State.over() && (j.State == Refused || boot != "" && j.Boot == boot) {
		return j, nil
	}
	docs, err := r.documents(ctx, s, &j)
	if err != nil {
		return j, err
	}
	d := Load(docs)
	if j.Finished.IsZero() {
		j.Foreign = d.Foreign
		j.Problems = append(slices.DeleteFunc(j.Problems, func(p Problem) bool { return p.ID != CodeFetch }), d.Problems...)
	}
	if d.Refused {
		j.State, j.Items, j.Finished = Refused, nil, time.Now().UTC()
		return j, s.save(&j)
	}
	items, err := r.items(ctx, d, &j)
	if err != nil {
		return j, err
	}
	return j, r.all(ctx, s, &j, items, boot)
}

// documents returns the documents of this VM: those that are stored, else those
// that Fetch returns.
func (r *Runner) documents(ctx context.Context, s Store, j *Journal) ([]Document, error) {
	if j.State != "" {
		docs, err := s.Documents(*j)
		if err == nil || !j.Finished.IsZero() || len(j.Items) > 0 {
			return docs, err
		}
	}
	docs, ps, err := r.Fetch(ctx)
	if err != nil {
		return nil, fault(CodeFetch, err)
	}
	// Of a machine from which the disk was copied.
	if err := s.Root.RemoveAll(s.path(runsName)); err != nil {
		return nil, fault(CodeState, err)
	}
	sources, err := s.keep(docs)
	if err != nil {
		return nil, err
	}
	*j = Journal{VMID: r.Machine.VM.ID, User: r.User, Fetched: s.Root.BootID(), State: Pending, Started: time.Now().UTC(), Sources: sources, Problems: ps}
	return docs, s.save(j)
}

// items makes the plan and enters it in the journal. Once everything was carried
// out, nothing is added that is not for every boot: the plan may become another
// one when the agent is updated or the machine changes.
func (r *Runner) items(ctx context.Context, d Data, j *Journal) ([]Item, error) {
	facts, err := gatherFacts(ctx, r.Machine)
	if err != nil {
		return nil, fault(CodeState, err)
	}
	user := cmp.Or(r.User, j.User)
	if own := r.Machine.OwnUsers(); user == "" && len(own) == 1 {
		user = own[0]
	}
	items := plan(d, facts, Options{User: user, Provisioning: r.Machine.Options, Launcher: r.Launcher})
	var kept []Item
	var entries []Entry
	for _, i := range items {
		e := j.entry(i.id)
		switch {
		case e == nil && !j.Finished.IsZero() && i.when != PerBoot:
			continue
		case e == nil:
			e = &Entry{ID: i.id, What: i.what, When: i.when, State: Pending}
		}
		kept, entries = append(kept, i), append(entries, *e)
	}
	j.Items = entries
	return kept, nil
}

// all carries items out.
func (r *Runner) all(ctx context.Context, s Store, j *Journal, items []Item, boot string) error {
	j.State = Doing
	if j.Boot != boot || boot == "" {
		for i := range j.Items {
			if e := &j.Items[i]; e.When == PerBoot {
				e.State = Pending // even if the last boot ended in the middle of it
			}
		}
		j.Boot = boot
	}
	if err := s.save(j); err != nil {
		return err
	}
	if err := s.write(beganName, []byte(j.VMID), 0o600); err != nil {
		return err
	}
	for _, i := range items {
		e := j.entry(i.id)
		if e.State.over() {
			continue
		}
		if err := r.item(ctx, s, j, i, e); err != nil {
			return err
		}
	}
	j.State = Done
	if j.Finished.IsZero() {
		j.Finished = time.Now().UTC()
	}
	return s.save(j)
}

// item carries one item out. It returns an error only if nothing further may be
// done.
func (r *Runner) item(ctx context.Context, s Store, j *Journal, i Item, e *Entry) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	begin := time.Now()
	var out outcome
	var err error
	if i.step != nil {
		out, err = r.apply(ctx, s, j, i, e)
	} else {
		out, err = r.runScript(ctx, s, j, i, e)
	}
	if err != nil {
		return err
	}
	r.observe(provisioning.Progress{Step: i, State: provisioning.Planned})
	e.State, e.Exit, e.Boot, e.Finished = out.state, out.exit, j.Boot, time.Now().UTC()
	if out.err != nil {
		e.Code, e.Error = codeOf(out.err), out.err.Error()
	}
	if err := s.save(j); err != nil {
		return err
	}
	took := time.Since(begin)
	message := i.what
	if out.err != nil {
		message += ": " + out.err.Error()
	}
	ok := out.state == Done || out.state == Warned || out.state == Skipped
	r.Machine.Events.Emit(event.Event{Kind: event.Operation, Time: begin.UTC(), Op: "UserData", OK: ok, Message: message, Duration: took})
	state := provisioning.Done
	if !ok {
		state = provisioning.Broken
	}
	r.observe(provisioning.Progress{Step: i, State: state, Err: out.err, Took: took})
	return nil
}

func (r *Runner) observe(p provisioning.Progress) {
	if r.Observe != nil {
		r.Observe(p)
	}
}

func codeOf(err error) string {
	if c := provisioning.CodeOf(err); c != provisioning.CodeInternal {
		return c
	}
	return CodeStep
}

// An outcome is how an item ended.
type outcome struct {
	state State
	exit  *int
	err   error
}

// begin enters in the journal that an item begins.
func (r *Runner) begin(s Store, j *Journal, i Item, e *Entry) error {
	e.State, e.Started, e.Finished, e.Code, e.Error, e.Exit = Doing, time.Now().UTC(), time.Time{}, "", "", nil
	if err := s.save(j); err != nil {
		return err
	}
	r.observe(provisioning.Progress{Step: i, State: provisioning.Doing})
	return nil
}

// apply applies a step, which may have been applied before.
func (r *Runner) apply(ctx context.Context, s Store, j *Journal, i Item, e *Entry) (outcome, error) {
	if err := r.begin(s, j, i, e); err != nil {
		return outcome{}, err
	}
	sctx, cancel := context.WithTimeoutCause(ctx, i.limit, fmt.Errorf("not finished after %v: %w", i.limit, context.DeadlineExceeded))
	defer cancel()
	err := i.step.Apply(sctx, r.Machine)
	if cause := context.Cause(ctx); cause != nil {
		return outcome{}, cause // stopped; the next start applies it again
	}
	if _, warned := errors.AsType[*provisioning.Warning](err); warned {
		return outcome{state: Warned, err: err}, nil
	}
	if err != nil {
		return outcome{state: Failed, err: err}, nil
	}
	return outcome{state: Done}, nil
}

// runScript runs a script under a supervisor, or waits for one that an earlier
// process has started. A script that was interrupted is not run again: it is not
// known how far it came.
func (r *Runner) runScript(ctx context.Context, s Store, j *Journal, i Item, e *Entry) (outcome, error) {
	if e.State == Doing && e.Output != "" {
		out, known, err := r.resume(ctx, s, e)
		if known || err != nil {
			return out, err
		}
	}
	if i.when == PerOnce && e.State != Doing {
		if o, ran := s.started()[i.sum()]; ran {
			e.Started = time.Now().UTC()
			return outcome{state: Skipped, err: fmt.Errorf("has run on this disk on %s", o.At.Format(time.RFC3339))}, nil
		}
	}
	spec, dir, err := r.prepare(s, i, e)
	if err != nil {
		return outcome{}, err
	}
	if err := r.begin(s, j, i, e); err != nil {
		return outcome{}, err
	}
	if i.when == PerOnce {
		if err := s.begin(i); err != nil {
			return outcome{}, err
		}
	}
	if err := r.Launcher.Start(dir, spec); err != nil {
		return outcome{state: Failed, err: fault(CodeScript, err)}, nil
	}
	return r.await(ctx, dir, e)
}

// scriptFile is the script in the directory of its run.
const scriptFile = "script"

// prepare makes the directory in which a script runs, and removes that of its
// last run. The directory is on disk before the journal names it: if it is
// missing then, the script may have run.
func (r *Runner) prepare(s Store, i Item, e *Entry) (job.Job, string, error) {
	if e.Output != "" {
		if err := s.Root.RemoveAll(e.Output); err != nil {
			return job.Job{}, "", fault(CodeState, err)
		}
	}
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == '#' || r == '(' || r == ')' {
			return '-'
		}
		return r
	}, i.id)
	id := "data-" + name[:min(len(name), 100)] + "-" + strings.ToLower(rand.Text()[:8])
	e.Output = s.path(path.Join(runsName, id))
	if err := s.write(path.Join(runsName, id, scriptFile), i.script, 0o700); err != nil {
		return job.Job{}, "", err
	}
	s.Root.SyncDir(path.Dir(e.Output))
	file := s.Root.Path(path.Join(e.Output, scriptFile))
	// A script is run by naming its interpreter, so that a noexec mount does not
	// matter.
	words := []string{file}
	if name, arg, ok := interpreter(i.script); ok {
		words = []string{name, file}
		if arg != "" {
			words = []string{name, arg, file}
		}
	}
	for n := range words {
		words[n] = shellQuote(words[n])
	}
	spec := job.Job{
		ID: id, Shell: "exec " + strings.Join(words, " "), Dir: s.Root.Path("/"), Timeout: r.Timeout,
		Env: []string{"INSTANCE_ID=" + r.Machine.VM.ID},
	}
	if r.Scoped {
		spec.Scope = job.ScopeName(id)
	}
	return spec, s.Root.Path(e.Output), nil
}

// resume finds out what has become of a script that an earlier process started.
// known is false if it was not started.
func (r *Runner) resume(ctx context.Context, s Store, e *Entry) (out outcome, known bool, err error) {
	dir := s.Root.Path(e.Output)
	if !s.Root.Exists(e.Output) {
		return cutOff(), true, nil
	}
	_, ended := job.ResultOf(dir)
	_, began := job.StateOf(dir)
	if !ended && !began {
		// Its supervisor may be about to write its state.
		if res, err := job.Wait(ctx, dir); err != nil {
			return outcome{}, false, err
		} else if res.Class == job.NotStarted {
			if _, ended = job.ResultOf(dir); !ended {
				return outcome{}, false, nil
			}
		}
	}
	out, err = r.await(ctx, dir, e)
	return out, true, err
}

func cutOff() outcome {
	return outcome{state: Interrupted, err: fault(CodeScript, errors.New("was interrupted, and is not run again"))}
}

// slack is how much longer than its limit a script is waited for, in case its
// supervisor does not end it.
const slack = time.Minute

// await waits for the end of a script, and ends it, with everything that it has
// started, when its time is over.
func (r *Runner) await(ctx context.Context, dir string, e *Entry) (outcome, error) {
	left := r.Timeout
	if st, ok := job.StateOf(dir); ok {
		left = st.Began.Left(r.Timeout)
	}
	wctx, cancel := context.WithTimeout(ctx, left+slack)
	defer cancel()
	res, err := job.Wait(wctx, dir)
	if cause := context.Cause(ctx); cause != nil {
		return outcome{}, cause // the script goes on; the next start waits for it
	}
	if err != nil {
		res = job.Result{Class: job.Timeout, Code: -1}
	}
	if res.Class == job.Timeout {
		ectx, stop := context.WithTimeout(ctx, slack)
		defer stop()
		job.End(ectx, dir)
	}
	if err := job.Reported(dir); err != nil {
		r.Machine.Log.Debug().Err(err).Msg("could not mask secrets in the output of a script")
	}
	return scriptOutcome(res, r.Timeout, e.Output), nil
}

func scriptOutcome(res job.Result, limit time.Duration, output string) outcome {
	text := ""
	switch res.Class {
	case job.OK:
		return outcome{state: Done, exit: &res.Code}
	case job.Failed:
		text = fmt.Sprintf("exit code %d, output in %s", res.Code, output)
	case job.Timeout:
		text = fmt.Sprintf("not finished after %v and ended, output in %s", limit, output)
	case job.Signal:
		text = fmt.Sprintf("ended by %s, output in %s", res.Signal, output)
	case job.NotStarted:
		text = "could not be started: " + res.Error
	default:
		return cutOff()
	}
	out := outcome{state: Failed, err: fault(CodeScript, errors.New(text))}
	if res.Class == job.Failed {
		out.exit = &res.Code
	}
	return out
}

var _ provisioning.Step = Item{} // so that it can be observed

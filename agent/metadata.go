package agent

import (
	"context"
	"time"

	"github.com/azguest/azguest/agent/metadata"
	"github.com/azguest/azguest/agent/status"
)

const (
	codeMetadataFile    = "AZ-META-FILE"
	codeMetadataService = "AZ-NET-IMDS"
)

// cacheMetadata writes the instance document, which the client of the platform
// has fetched for its telemetry, for agentctl and other programs. An administrator
// who has switched copies on gets newer ones from the job.
func (a *Agent) cacheMetadata(doc []byte) {
	if a.copiesMetadata() {
		return
	}
	if n, err := metadata.Parse(doc); err == nil {
		a.writtenMetadata(metadata.WriteCache(a.Root, n, time.Now()))
	}
}

// copiesMetadata reports whether an administrator wants copies of the metadata
// for other programs.
func (a *Agent) copiesMetadata() bool { return a.cfg.Metadata.Period > 0 || a.cfg.Metadata.EnvFile }

// copyMetadata is the job that fetches the metadata for the copies: each time,
// or until it has them if no period is configured.
func (a *Agent) copyMetadata(ctx context.Context) error {
	m := status.Metadata{PeriodS: int(a.cfg.Metadata.Period / time.Second)}
	if old := a.live.copy().Metadata; old != nil {
		m.Fetched = old.Fetched
	}
	if a.cfg.Metadata.EnvFile {
		m.File = metadata.UnitFile
	}
	a.live.set(func(s *status.Snapshot) { s.Metadata = &m })
	if m.PeriodS == 0 && !m.Fetched.IsZero() {
		return nil
	}
	doc, err := a.platform.NewestMetadata(ctx)
	var n *metadata.Node
	if err == nil {
		n, err = metadata.Parse(doc)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	a.live.problem("instance metadata", codeMetadataService, fixOf(codeMetadataService), err)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	err = metadata.WriteCache(a.Root, n, now)
	if err == nil && a.cfg.Metadata.EnvFile {
		err = metadata.WriteUnit(a.Root, n)
	}
	a.writtenMetadata(err)
	if err == nil {
		done := m
		done.Fetched = now
		a.live.set(func(s *status.Snapshot) { s.Metadata = &done })
	}
	return err
}

// writtenMetadata shows whether the copies could be written.
func (a *Agent) writtenMetadata(err error) {
	a.live.problem("copies of the instance metadata", codeMetadataFile, fixOf(codeMetadataFile), err)
}

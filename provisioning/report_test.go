package provisioning_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/provisioning"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 123456000, time.UTC)

func TestRecords(t *testing.T) {
	t.Parallel()
	plain := &provisioning.Error{ID: "AZ-PROV-USER", Reason: "failed to provision user", Data: []provisioning.Pair{{"user", "bob"}}, Err: errors.New("useradd: it's | full\nreally")}
	for _, tc := range []struct {
		name string
		rec  provisioning.Record
		want string
	}{
		{
			"success", provisioning.Success("azguest/1.0", vmID, "", noon),
			"result=success|agent=azguest/1.0|pps_type=None|timestamp=2026-11-22T12:00:00.123456+00:00|vm_id=" + vmID,
		},
		{
			"failure", provisioning.Failure(fmt.Errorf("boot: %w", plain), "azguest/1.0", "", provisioning.PPSRunning, noon),
			"result=error|reason=failed to provision user|agent=azguest/1.0|code=AZ-PROV-USER|user=bob|'error=useradd: it''s | full\nreally'|pps_type=Running|vm_id=None|timestamp=2026-11-22T12:00:00.123456+00:00|documentation_url=https://aka.ms/linuxprovisioningerror",
		},
		{
			"unknown error", provisioning.Failure(errors.New("what"), "a", vmID, "", noon),
			"result=error|reason=unhandled error|agent=a|code=AZ-PROV-INTERNAL|error=what|pps_type=None|vm_id=" + vmID + "|timestamp=2026-11-22T12:00:00.123456+00:00|documentation_url=https://aka.ms/linuxprovisioningerror",
		},
	} {
		got := tc.rec.Encode(provisioning.MaxReport)
		if got != tc.want {
			t.Errorf("%s:\n%s\nwant\n%s", tc.name, got, tc.want)
		}
	}
	failed := &provisioning.Failed{Errors: []*provisioning.Error{plain, {ID: "AZ-PROV-SSHD", Reason: "failed to update sshd config"}}}
	got := provisioning.DecodeReport(provisioning.Failure(failed, "a", vmID, "", noon).Encode(provisioning.MaxReport))
	want := []provisioning.Pair{
		{"result", "error"},
		{"reason", "failed to provision user"},
		{"agent", "a"},
		{"code", "AZ-PROV-USER"},
		{"user", "bob"},
		{"error", "useradd: it's | full\nreally"},
		{"also", "failed to update sshd config"},
		{"pps_type", "None"},
		{"vm_id", vmID},
		{"timestamp", "2026-11-22T12:00:00.123456+00:00"},
		{"documentation_url", provisioning.DocumentationURL},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
}

func TestLongReportKeepsRequiredKeys(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 500, 900, 1000, 5000} {
		e := &provisioning.Error{ID: "AZ-PROV-SSHD", Reason: "failed to update sshd config", Data: []provisioning.Pair{{"a", strings.Repeat("é'", n)}}, Err: errors.New(strings.Repeat("世|", n))}
		s := provisioning.Failure(e, "azguest/1.0", vmID, "", noon).Encode(provisioning.MaxReport)
		if len(s) > provisioning.MaxReport || !utf8.ValidString(s) {
			t.Errorf("%d: %d bytes, valid %v", n, len(s), utf8.ValidString(s))
		}
		have := map[string]bool{}
		for _, p := range provisioning.DecodeReport(s) {
			have[p.Key] = true
		}
		for _, k := range []string{"result", "reason", "agent", "code", "pps_type", "vm_id", "timestamp", "documentation_url"} {
			if !have[k] {
				t.Errorf("%d: %s is gone: %s", n, k, s)
			}
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("reason", "value|'\n", 300)
	f.Fuzz(func(t *testing.T, reason, value string, limit int) {
		if limit < 200 || limit > 4096 {
			t.Skip()
		}
		s := provisioning.Failure(&provisioning.Error{ID: "X", Reason: reason, Err: errors.New(value)}, "a", vmID, "", noon).Encode(limit)
		if len(s) > limit {
			t.Errorf("%d bytes, limit %d", len(s), limit)
		}
	})
}

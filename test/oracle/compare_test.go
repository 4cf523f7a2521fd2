package oracle

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A difference is what azguest does otherwise than cloud-init, for a reason.
type difference struct {
	documents []string // names; of all of them, only those that differ in this way
	// theirs and ours are the lines of facts in which the machines differ: those
	// only cloud-init's has, and those only azguest's has.
	theirs, ours []string
	why          string
}

// differences are all decisions to do it otherwise.
var differences = []difference{
	{
		documents: []string{"hostname", "fqdn", "hostname-and-fqdn", "hostname-with-dots", "hosts-false"},
		ours:      []string{"+hosts 127.0.1.1 web01", "-hosts 127.0.1.1 first-light"},
		why:       "the name of a machine has an address, or sudo waits for a name server; provisioning does the same (DESIGN.md, decision 142)",
	},
	{
		documents: []string{"hostname-prefer-fqdn"},
		ours:      []string{"+hosts 127.0.1.1 web02.example.org web02", "-hosts 127.0.1.1 first-light"},
		why:       "the same, with the full name",
	},
	{
		documents: []string{"merge-later-part"},
		ours:      []string{"+hosts 127.0.1.1 second", "-hosts 127.0.1.1 first-light"},
		why:       "the same",
	},
	{
		documents: []string{"hosts-without-names", "hosts-every-boot"},
		theirs:    []string{"+hosts 127.0.1.1 first-light first-light", "-hosts 127.0.1.1 first-light"},
		why:       "a name is written once (DESIGN.md, decision 142)",
	},
	{
		documents: []string{"hosts-localhost-twice"},
		theirs:    []string{"+hosts 127.0.1.1 first-light web01"},
		ours:      []string{"+hosts 127.0.1.1 web01"},
		why:       "where only hostname is given, cloud-init takes the platform's name for the full name; here the given name is the full name, too (DESIGN.md, decision 142)",
	},
	{
		documents: []string{"file-mode-and-owner"},
		theirs:    []string{"+file /srv/b -rwxr-xr-x daemon:adm"},
		ours:      []string{"+file /srv/b -rwsr-xr-x daemon:adm"},
		why:       "cloud-init sets the mode before the owner, and chown clears the set-user-id bit that was asked for (DESIGN.md, decision 142)",
	},
	{
		documents: []string{"password-plain"},
		theirs:    []string{"+shadow ann open hash of kind y min=0 max=99999 warn=7 inactive= expire="},
		ours:      []string{"+shadow ann open hash of kind 6 min=0 max=99999 warn=7 inactive= expire="},
		why:       "passwords are hashed as Provisioning.PasswordCryptId says (DESIGN.md, decision 142)",
	},
	{
		documents: []string{"password-of-existing"},
		theirs:    []string{"+shadow cyd open hash of kind y min=0 max=99999 warn=7 inactive= expire="},
		ours:      []string{"+shadow cyd open hash of kind 6 min=0 max=99999 warn=7 inactive= expire="},
		why:       "the same",
	},
	{
		documents: []string{"password-locked"},
		theirs:    []string{"+shadow bob locked hash of kind y min=0 max=99999 warn=7 inactive= expire="},
		ours:      []string{"+shadow bob locked hash of kind 6 min=0 max=99999 warn=7 inactive= expire="},
		why:       "the same",
	},
	{
		documents: []string{"mounts"},
		theirs:    []string{"+fstab server:/export /srv/nfs nfs ro,noauto,comment=cloudconfig 0 0", "+fstab server:/other /srv/other auto defaults,nofail,x-systemd.requires=cloud-init.service,_netdev,comment=cloudconfig 0 2"},
		ours:      []string{"+fstab server:/export /srv/nfs nfs ro,noauto 0 0", "+fstab server:/other /srv/other auto defaults,nofail 0 2"},
		why:       "there is no cloud-init.service to wait for, and azguest knows its lines by the block that they are in (DESIGN.md, decision 143)",
	},
	{
		documents: []string{"mounts-taken-back"},
		theirs:    []string{"+fstab LABEL=a /srv/a ext4 noauto,comment=cloudconfig 0 2"},
		ours:      []string{"+fstab LABEL=a /srv/a ext4 noauto 0 2"},
		why:       "the same",
	},
	{
		documents: []string{"mounts-of-devices"},
		theirs:    []string{"+fstab LABEL=data /srv/label ext4 noauto,comment=cloudconfig 0 2", "+fstab /dev/doesnotexist /srv/none ext4 defaults,nofail,comment=cloudconfig 0 2"},
		ours:      []string{"+fstab LABEL=data /srv/label ext4 noauto 0 2", "+fstab /dev/doesnotexist /srv/none ext4 defaults,nofail 0 2"},
		why:       "the same",
	},
	{
		documents: []string{"mounts-that-stop-the-boot"},
		theirs:    []string{"+fstab /dev/doesnotexist /srv/none ext4 defaults,comment=cloudconfig 0 2", "+file /srv/none drwxr-xr-x root:root"},
		why:       "without the device and without nofail the next boot ends in the emergency shell, so the line is left out and reported (DESIGN.md, decision 143)",
	},
	{
		documents: []string{"field-users"},
		theirs:    []string{"+fstab server:/x /srv/x/ nfs ro,noauto,comment=cloudconfig 0 2", "+home /srv/gus/ drwxr-xr-x gus:gus", "+home /srv/gus//.profile -rw-r--r-- gus:gus", "+user gus auto gus '' /srv/gus/ /bin/sh"},
		ours:      []string{"+fstab server:/x /srv/x nfs ro,noauto 0 2", "+home /srv/gus drwxr-xr-x gus:gus", "+home /srv/gus/.profile -rw-r--r-- gus:gus", "+user gus auto gus '' /srv/gus /bin/sh"},
		why:       "paths are written without slashes that mean nothing, so that they are found again (DESIGN.md, decision 142)",
	},
	{
		documents: []string{"field-files"},
		theirs:    []string{"+file /srv/owner -rw-r--r-- root:root"},
		ours:      []string{"+file /srv/owner -rw-r--r-- daemon:adm"},
		why:       "owners may be numbers, as with chown(1); cloud-init fails, and leaves root's file (DESIGN.md, decision 142)",
	},
	{
		documents: []string{"merge-maps"},
		ours:      []string{"+chrony server a.example.org iburst", "+hosts 127.0.1.1 b", "-hosts 127.0.1.1 first-light"},
		why:       "between parts cloud-init replaces whole maps, between vendor data and user data it merges them; here both are merged (DESIGN.md, decision 139)",
	},
	{
		documents: []string{"vendor-appended-to"},
		ours:      []string{"+file /srv/vendor -rw-r--r-- root:root", "+file /srv/vendor has b'vendor'"},
		why:       "cloud-init merges parts of user data by merge_how, and always puts the result above vendor data; here the user can ask for the vendor's list as well (DESIGN.md, decision 139)",
	},
	{
		documents: []string{"ntp-empty"},
		theirs:    []string{"+chrony pool 0.debian.pool.ntp.org iburst", "+chrony pool 1.debian.pool.ntp.org iburst", "+chrony pool 3.debian.pool.ntp.org iburst"},
		why:       "without servers and pools nothing of the client's configuration is replaced (DESIGN.md, decision 143)",
	},
}

// TestSameMachine compares cloud-init with azguest, document by document.
func TestSameMachine(t *testing.T) {
	l := need(t)
	nothing := document{name: "nothing", user: config("{}")}
	theirsBefore, warnings, err := cloudInit(t.Context(), l, nothing)
	if err != nil {
		t.Fatalf("%v %q", err, warnings)
	}
	oursBefore, reports := azguest(t, l, nothing)
	if len(reports) > 0 {
		t.Errorf("azguest, of nothing: %q", reports)
	}
	for _, d := range documents() {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			theirs, warnings, err := cloudInit(t.Context(), l, d)
			if err != nil {
				t.Fatal(err)
			}
			ours, reports := azguest(t, l, d)
			a, b := theirs.change(theirsBefore), ours.change(oursBefore)
			wantTheirs, wantOurs := expected(d.name)
			for _, x := range []struct {
				what      string
				got, want facts
			}{{"only cloud-init", a.minus(b), wantTheirs}, {"only azguest", b.minus(a), wantOurs}} {
				for _, line := range x.got.minus(x.want) {
					t.Errorf("%s: %s", x.what, line)
				}
				for _, line := range x.want.minus(x.got) {
					t.Errorf("%s: %s: is in the table of differences, but the machines do not differ in it", x.what, line)
				}
			}
			if t.Failed() {
				t.Logf("cloud-init warned:\n%s\nazguest reported:\n%s", strings.Join(warnings, "\n"), strings.Join(reports, "\n"))
			}
		})
	}
}

// expected returns the lines in which the machines differ after a document.
func expected(name string) (theirs, ours facts) {
	for _, d := range differences {
		if slices.Contains(d.documents, name) {
			theirs, ours = append(theirs, d.theirs...), append(ours, d.ours...)
		}
	}
	return theirs, ours
}

// TestDifferencesAreDecided: each difference names documents that exist, and has
// a reason.
func TestDifferencesAreDecided(t *testing.T) {
	var names []string
	for _, d := range documents() {
		if slices.Contains(names, d.name) {
			t.Errorf("two documents are named %s", d.name)
		}
		names = append(names, d.name)
	}
	if len(names) < 40 {
		t.Errorf("%d documents are too few", len(names))
	}
	for _, d := range differences {
		if d.why == "" || len(d.theirs)+len(d.ours) == 0 {
			t.Errorf("%v: no reason, or no difference", d.documents)
		}
		for _, name := range d.documents {
			if !slices.Contains(names, name) {
				t.Errorf("there is no document %s", name)
			}
		}
	}
}

// TestKeysHaveDocuments: each key of the specification is in a document.
func TestKeysHaveDocuments(t *testing.T) {
	spec, err := os.ReadFile("../../provisioning/SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(spec), "### 18.3 cloud-config")
	section, _, _ = strings.Cut(section, "### 18.4")
	var all strings.Builder
	for _, d := range documents() {
		all.WriteString(d.user + d.vendor)
	}
	keys := 0
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(line, -1) {
			keys++
			if !regexp.MustCompile(`\b` + m[1] + `\b`).MatchString(all.String()) {
				t.Errorf("no document has %s", m[1])
			}
		}
	}
	if keys < 40 {
		t.Errorf("the specification has %d keys; is its table read?", keys)
	}
}

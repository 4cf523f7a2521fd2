package status

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fillStrings sets every string of a snapshot to a text.
func fillStrings(v reflect.Value, path string, text func(path string) string) {
	switch v.Kind() { //nolint:exhaustive // other kinds hold no strings
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				fillStrings(v.Field(i), path+"."+f.Name, text)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fillStrings(v.Index(0), path, text)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillStrings(v.Elem(), path, text)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key"), reflect.ValueOf(text(path)))
	case reflect.String:
		v.SetString(text(path))
	}
}

func TestSEC11PublicStatusHasNoHandlerText(t *testing.T) {
	t.Parallel()
	var s Snapshot
	// Redact does not know this form, so the text must be left out.
	fillStrings(reflect.ValueOf(&s).Elem(), "", func(path string) string { return "the word is canary" + path })
	want := s
	path := filepath.Join(t.TempDir(), "status.json")
	if err := Save(path, s); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{
		".Extensions.Message", ".Extensions.StdoutTail", ".Extensions.StderrTail", ".Extensions.Status", ".Extensions.Ready", ".Extensions.Heartbeat",
		".Provisioning.Error", ".Provisioning.Steps.Error", ".Problems.Message", ".Firewall.Message",
	} {
		if strings.Contains(string(b), "canary"+field+`"`) {
			t.Errorf("everybody may read %s", field)
		}
	}
	// Fields that are free text by their name must have a tag that says who may
	// see them.
	var open []string
	var walk func(typ reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for f := range typ.Fields() {
			name := path + "." + f.Name
			switch {
			case !f.IsExported():
			case f.Type.Kind() != reflect.String || f.Type != reflect.TypeFor[string]():
				walk(f.Type, name)
			case f.Tag.Get("see") == "":
				for _, w := range []string{"Message", "Error", "Tail", "Output", "Result", "Reason", "Waiting", "URL", "Proxy"} {
					if strings.HasSuffix(f.Name, w) {
						open = append(open, name)
					}
				}
			}
		}
	}
	walk(reflect.TypeFor[Snapshot](), "")
	if len(open) != 0 {
		t.Errorf("fields %q may hold text of others and have no see tag", open)
	}
	// Saving must not change the snapshot that the agent continues to use.
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("Save changed its argument:\n%s", diff)
	}
	full, err := Load(path)
	if err != nil || full.Extensions[0].Message != "the word is canary.Extensions.Message" || full.Extensions[0].Withheld {
		t.Errorf("root sees %+v, %v", full.Extensions[0], err)
	}
}

// TestSEC11BothViewsAreRedacted: secrets are masked in both views,
// whichever part of the agent has stored the text.
func TestSEC11BothViewsAreRedacted(t *testing.T) {
	t.Parallel()
	const word = "hunter2hunter2"
	var s Snapshot
	fillStrings(reflect.ValueOf(&s).Elem(), "", func(path string) string {
		return fmt.Sprintf("curl -H 'Authorization: Basic %s' https://joe:%s@a.example/b?sig=%s", word, word, word)
	})
	starting := Snapshot{Provisioning: Provisioning{State: ProvPending, Waiting: s.Provisioning.Waiting}}
	for _, see := range []Snapshot{s.Redact(), s.Clean()} {
		s.each(func(string, string) string { return "" })
		see.each(func(_, text string) string {
			if strings.Contains(text, word) {
				t.Errorf("redacted %v: %s", see.Redacted, text)
			}
			return text
		})
	}
	if line := starting.Judge().Line; strings.Contains(line, word) {
		t.Errorf("line: %s", line)
	}
}

func TestSEC11UnknownStatusIsNotShown(t *testing.T) {
	t.Parallel()
	s := Snapshot{Extensions: []Extension{
		{Status: StatusSuccess, Ready: "Ready", Message: "x"}, {Status: "my password is x", Ready: "notready"}, {},
	}}
	var got []Extension
	got = append(got, s.Redact().Extensions...)
	want := []Extension{{Status: StatusSuccess, Ready: "Ready", Withheld: true}, {Ready: "notready"}, {}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("extensions (-want +got):\n%s", diff)
	}
}

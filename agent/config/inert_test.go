package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestTOOL10KeysWithoutEffectSaySo: a setting that nothing reads is reported
// wherever it is set, and the table of keys says which these are: the source is
// searched for uses of each field.
func TestTOOL10KeysWithoutEffectSaySo(t *testing.T) {
	t.Parallel()
	source := readers(t)
	inert := 0
	for _, k := range Keys() {
		if k.Inert {
			inert++
			value := map[Kind]string{Switch: "y", Int: "7", Seconds: "7"}[k.Kind]
			if value == "" {
				value = "/x"
			}
			_, warns := Parse("f", []byte("\n"+k.Name+"="+value+"\n"))
			if len(warns) != 1 || !warns[0].Note || warns[0].Key != k.Name || warns[0].Message != "has no effect" || warns[0].Origin.Line != 2 {
				t.Errorf("%s=%s: %+v", k.Name, value, warns)
			}
		}
		if said := strings.Contains(k.Doc, "no effect"); said != k.Inert && k.Kind != Ignored {
			t.Errorf("%s: Inert is %t, and its description is %q", k.Name, k.Inert, k.Doc)
		}
		if k.at == nil {
			continue
		}
		group, field := name(t, k)
		if k.Inert && regexp.MustCompile(`\b`+group+`\.`+field+`\b *([^ =]|==)`).MatchString(source) {
			t.Errorf("%s has no effect, but something reads %s.%s", k.Name, group, field)
		}
		if !k.Inert && !regexp.MustCompile(`\.`+field+`\b`).MatchString(source) {
			t.Errorf("nothing reads %s.%s, and %s is not marked as without effect", group, field, k.Name)
		}
	}
	if inert < 24 {
		t.Errorf("%d keys without effect", inert)
	}
}

// readers returns the source of everything that reads the configuration.
func readers(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == ".build" || d.Name() == "test") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "agent/config/keys.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// name returns where a key is kept, as group and field of Config.
func name(t *testing.T, k Key) (group, field string) {
	t.Helper()
	c := &Config{}
	at := reflect.ValueOf(k.at(c)).Pointer()
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		g := v.Field(i)
		if g.Kind() != reflect.Struct {
			continue
		}
		for j := range g.NumField() {
			if g.Field(j).CanAddr() && g.Field(j).Addr().Pointer() == at && g.Field(j).Kind() == reflect.ValueOf(k.at(c)).Elem().Kind() {
				return v.Type().Field(i).Name, g.Type().Field(j).Name
			}
		}
	}
	t.Fatalf("%s: no field", k.Name)
	return "", ""
}

package armtemplate

import (
	"encoding/json"
	"errors"
	"testing"
)

// stubHost is a host without deployed resources.
type stubHost struct{}

func (stubHost) Subscription() Object  { return object{"subscriptionId": "s"} }
func (stubHost) ResourceGroup() Object { return object{"name": "rg"} }
func (stubHost) Tenant() Object        { return object{} }
func (stubHost) Deployment() Object    { return object{} }
func (stubHost) Environment() Object   { return object{} }
func (stubHost) Reference(string, string, bool) (any, error) {
	return nil, errors.New("nothing is deployed")
}

func TestToJSON(t *testing.T) {
	for text, want := range map[string]string{
		`{"a": 1, template:{"b": [1, 2,], /* c */ "d": "x // y", } } // end`:    `{"a":1,"template":{"b":[1,2],"d":"x // y"}}`,
		"{\"a\": \"two\r\n\tlines \\\"quoted\\\"\", b: -1.5e3, c: [true,null]}": `{"a":"two\r\n\tlines \"quoted\"","b":-1500,"c":[true,null]}`,
		`{"a":"//"}`: `{"a":"//"}`,
	} {
		var v any
		if err := json.Unmarshal(ToJSON([]byte(text)), &v); err != nil || asJSON(t, v) != want {
			t.Errorf("%s: %s, %v", text, asJSON(t, v), err)
		}
	}
	if got := string(ToJSON([]byte("grant_type=x&password=p"))); got != "grant_type=x&password=p" {
		t.Errorf("a form became %q", got)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// FuzzTemplate: any template is either rejected or evaluated to values that can
// be encoded as JSON, without a panic.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{
		`[concat('a', variables('v'))]`, `[if(true(), 'a', createArray(1)[0])]`, `[[x]`, `[format('{0:D3}', 7)]`, `[copyIndex('x')]`, `[resourceId('A.B/c', 'd').?x]`,
		`[union(createObject('a', 1), json('{}'))]`, `[union(createObject('', 00), json('{}'))]`, `[split(base64ToString('YQ=='), ',')]`, `[substring('abc', 1)]`, `[`, `[]`, `[.]`, `['`, `[range(0, 10000)]`, `[uri('%', 'x')]`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		template := newTemplate(object{
			"$schema": "s", "contentVersion": "1.0.0.0",
			"variables": object{"v": text}, "outputs": object{"o": object{"type": "string", "value": text, "copy": object{"count": text, "input": text}}},
			"resources": []any{object{
				"type": "A.B/c", "apiVersion": "1", "name": "x", "tags": object{text: text}, "dependsOn": []any{text},
				"properties": object{"settings": object{"of": "x"}},
			}},
		}, stubHost{})
		if template.Check() == nil {
			if resources, err := template.Resources(); err == nil {
				for _, r := range resources {
					_ = r.Check()
				}
			}
			_ = template.CheckOutputs()
		}
		ToJSON([]byte(text))
		s := &scope{t: template, stage: atRun}
		if v, err := s.value(text); err == nil {
			if _, err := json.Marshal(v); err != nil {
				t.Errorf("%q: %v is not JSON: %v", text, v, err)
			}
		}
	})
}

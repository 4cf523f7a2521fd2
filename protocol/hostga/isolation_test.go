package hostga

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/peak"
)

// odd are values of each kind.
var odd = []string{`null`, `true`, `-1`, `1.5`, `1e400`, `99999999999999999999999`, `""`, `" "`, `"text"`, `"\ud800"`, `[]`, `[null]`, `{}`, `{"a":{"b":[1]}}`, `[[[[]]]]`, `"` + strings.Repeat("x", 70000) + `"`}

// TestFaultsStayInTheirHandler: every value in one handler's part is replaced
// by a value of each other kind. The document is read all the same, and the
// other handlers do not change.
func TestFaultsStayInTheirHandler(t *testing.T) {
	peak.WithoutRace(t)
	t.Parallel()
	docs := map[string][]byte{"example": []byte(example)}
	if os.Getenv("AZGUEST_FIXTURES") != "" {
		for _, name := range []string{"hostgaplugin/vm_settings.json", "hibernate/goal_state_1/VmSettings.json"} {
			docs[name] = fixture(t, name)
		}
	}
	for name, doc := range docs {
		var tree map[string]any
		if err := json.Unmarshal(doc, &tree); err != nil {
			t.Fatal(err)
		}
		list := tree["extensionGoalStates"].([]any)
		whole, err := ParseVMSettings(doc)
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			each(list[i], func(path string, with func(string) []byte) {
				for _, value := range odd {
					parts := make([]json.RawMessage, len(list))
					for j := range list {
						parts[j], _ = json.Marshal(list[j])
					}
					parts[i] = with(value)
					changed := maps.Clone(tree)
					changed["extensionGoalStates"] = parts
					b, err := json.Marshal(changed)
					if err != nil {
						t.Fatal(err)
					}
					vm, err := ParseVMSettings(b)
					if err != nil {
						t.Errorf("%s: handler %d: %s = %.40s: %v", name, i, path, value, err)
						continue
					}
					var others, want []any
					for j, h := range whole.Handlers {
						if j != i {
							want = append(want, h)
						}
					}
					gone := len(vm.Handlers) < len(whole.Handlers)
					for j, h := range vm.Handlers {
						if j != i || gone {
							others = append(others, h)
						}
					}
					if !reflect.DeepEqual(others, want) {
						t.Errorf("%s: handler %d: %s = %.40s: the others are %+v, want %+v", name, i, path, value, others, want)
					}
				}
			})
		}
	}
}

// TestFaultsBesideTheHandlers: an invalid value elsewhere in the document
// changes no handler, unless it is the list of handlers itself.
func TestFaultsBesideTheHandlers(t *testing.T) {
	t.Parallel()
	var tree map[string]any
	if err := json.Unmarshal([]byte(example), &tree); err != nil {
		t.Fatal(err)
	}
	whole, err := ParseVMSettings([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	each(tree, func(path string, with func(string) []byte) {
		for _, value := range odd {
			vm, err := ParseVMSettings(with(value))
			if path == "extensionGoalStates" {
				continue // without them there is no goal state
			}
			if err != nil {
				t.Errorf("%s = %.40s: %v", path, value, err)
				continue
			}
			if !strings.HasPrefix(path, "extensionGoalStates") && !reflect.DeepEqual(vm.Handlers, whole.Handlers) {
				t.Errorf("%s = %.40s: the handlers are %+v", path, value, vm.Handlers)
			}
		}
	})
}

// each calls f for each place in a value; with returns the whole value with a
// text put there.
func each(v any, f func(path string, with func(string) []byte)) {
	const mark = "\u2603here"
	var walk func(at string, v any, set func(any))
	walk = func(at string, x any, set func(any)) {
		f(at, func(text string) []byte {
			set(mark)
			defer set(x)
			b, _ := json.Marshal(v)
			return bytes.Replace(b, []byte(`"`+mark+`"`), []byte(text), 1)
		})
		switch x := x.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(x)) {
				walk(at+"."+k, x[k], func(n any) { x[k] = n })
			}
		case []any:
			for i := range x {
				walk(fmt.Sprintf("%s[%d]", at, i), x[i], func(n any) { x[i] = n })
			}
		}
	}
	root := v.(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(root)) {
		walk(k, root[k], func(n any) { root[k] = n })
	}
}

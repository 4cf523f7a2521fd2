package handler

import (
	"bytes"
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/test/peak"
)

// FuzzJSON: the functions of json.go find the same as encoding/json.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`[{"status":{"a":[1,2,{"b":"\"]"}],"name":"x"}}]`, `{"a" : 1 ,"b":[],"a":-1.5e3}`, `[]`, `{}`, `[ 1 , null,true ,"\\" ]`,
		`null`, `"x"`, `[[[]]]`, `{"a\u0062":{"b":{}}}`, " [ ] ", `[1]`, `{"ab":"\\\"","c":"}"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(peak.Target(func(t *testing.T, data []byte) {
		if checkJSON(data) != nil {
			if json.Valid(data) {
				t.Fatal("refused valid JSON")
			}
			return
		}
		trim := func(m map[string]json.RawMessage) map[string]string {
			out := map[string]string{}
			for k, v := range m {
				out[k] = string(bytes.TrimSpace(v))
			}
			return out
		}
		var wantList []json.RawMessage
		if json.Unmarshal(data, &wantList) == nil && wantList != nil {
			got, err := elements(data, len(wantList)+1)
			if err != nil || len(got) != len(wantList) {
				t.Fatalf("%q: %v %q, want %q", data, err, got, wantList)
			}
			for i := range got {
				if !bytes.Equal(got[i], bytes.TrimSpace(wantList[i])) {
					t.Fatalf("%q: element %d is %q, want %q", data, i, got[i], wantList[i])
				}
			}
		}
		var want map[string]json.RawMessage
		if json.Unmarshal(data, &want) == nil && want != nil {
			var names []string
			for k := range want {
				if len(k) > 100 || k == "" {
					return // not a name that the agent uses
				}
				names = append(names, k)
			}
			got, err := fields(data, names...)
			if diff := cmp.Diff(trim(want), trim(got)); err != nil || diff != "" {
				t.Fatalf("%q: %v (-want +got):\n%s", data, err, diff)
			}
		}
		_, _ = ParseStatus(data)
		var tight, ours bytes.Buffer
		line := oneLine(data)
		if err := json.Compact(&ours, line); err != nil || bytes.ContainsAny(line, "\n\r\t") {
			t.Fatalf("%q on one line is %q: %v", data, line, err)
		}
		if err := json.Compact(&tight, data); err != nil || tight.String() != ours.String() {
			t.Fatalf("%q on one line is %q", data, line)
		}
	}))
}

// TestStatusMemory: parsing a status file of the maximum size must not need many
// times its size in memory, whatever it contains.
func TestStatusMemory(t *testing.T) {
	const limit = 24 << 20
	head := `[{"version":1.0,"status":{"status":"success","operation":"Enable","code":0,"formattedMessage":{"lang":"en","message":"m"},"substatus":[`
	for name, doc := range map[string]string{
		"substatuses that are empty": head + strings.TrimSuffix(strings.Repeat("{},", MaxStatusFile/3-100), ",") + "]}}]",
		"many elements":              "[" + strings.Repeat("{},", MaxStatusFile/3-100) + "{}]",
		"many arrays":                strings.Repeat("[],", 3) + strings.Repeat("[[]],", MaxStatusFile/6),
		"many fields":                `[{` + strings.Repeat(`"a":{},`, MaxStatusFile/8) + `"status":{"status":"success"}}]`,
		"numbers":                    head + strings.Repeat("1,", MaxStatusFile/2-200) + "1]}}]",
	} {
		t.Run(name, func(t *testing.T) {
			data := []byte(doc)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			_, _ = ParseStatus(data)
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > limit {
				t.Errorf("%d MiB were allocated for a file of %d", got>>20, len(data)>>20)
			}
		})
	}
}

// TestLongTextsAreCutWhole: only the beginning of a very long string is decoded,
// and it is not cut inside of a character or an escape.
func TestLongTextsAreCutWhole(t *testing.T) {
	t.Parallel()
	for _, unit := range []string{"x", `\n`, `\u0041`, `\ud83d\ude00`, `\uD83D\uDE00`, "é", "\U0001f600", `\\`, "\\\"", "ab\U0001f600", `a\ud83d\ude00`, `\ud83dx\n`} {
		for pad := range 12 {
			raw := []byte(`"` + strings.Repeat("p", pad) + strings.Repeat(unit, maxText/len(unit)+2) + `"`)
			var whole string
			if err := json.Unmarshal(raw, &whole); err != nil {
				t.Fatal(err)
			}
			got, ok := Text(raw)
			if !ok || !strings.HasPrefix(whole, got) || len(got) < bigTotal/4 {
				t.Errorf("%s after %d: %v, %d bytes", unit, pad, ok, len(got))
			}
		}
	}
	if got, ok := Text([]byte(`"` + strings.Repeat("\xff", 2*maxText) + `"`)); !ok || len(got) < bigTotal {
		t.Errorf("text that is not UTF-8: %v, %d bytes", ok, len(got))
	}
	short := `"` + strings.Repeat("x", maxText-2) + `"`
	if got, _ := Text([]byte(short)); len(got) != maxText-2 {
		t.Errorf("a text of the maximum length was cut to %d bytes", len(got))
	}
}

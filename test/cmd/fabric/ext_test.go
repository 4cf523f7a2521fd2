package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"
)

// TestSettings: settings files as editors and shells write them are accepted,
// or rejected with a helpful message.
func TestSettings(t *testing.T) {
	wide := []byte{0xff, 0xfe}
	for _, c := range utf16.Encode([]rune(`{"a":1}`)) {
		wide = append(wide, byte(c), byte(c>>8))
	}
	for name, tc := range map[string]struct{ data, want, refused string }{
		"plain":   {`{"a":1}`, `{"a":1}`, ""},
		"mark":    {"\xef\xbb\xbf{\"a\":1}\r\n", "{\"a\":1}\r\n", ""},
		"wide":    {string(wide), "", "the file is UTF-16, as written by > in PowerShell; save it as UTF-8"},
		"empty":   {" \n", "", "the file is empty"},
		"null":    {"null", "", "settings must have the form { … }"},
		"array":   {"[1]", "", "settings must have the form { … }"},
		"comma":   {"{\n\"a\": 1,\n}", "", "line 3: invalid character"},
		"cut":     {"{\"a\":\n", "", "line 2: unexpected end"},
		"two":     {`{"a":1} {}`, "", "line 1: invalid character"},
		"missing": {"", "", "no such file"},
	} {
		file := filepath.Join(t.TempDir(), "s.json")
		if name != "missing" {
			if err := os.WriteFile(file, []byte(tc.data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := settings(file, strings.NewReader(""), false)
		if string(got) != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
		if tc.refused == "" && err != nil || tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused) || strings.Contains(err.Error(), "%!")) {
			t.Errorf("%s: error %v, want %q", name, err, tc.refused)
		}
		if _, usage := errors.AsType[usageError](err); usage != (tc.refused != "") {
			t.Errorf("%s: it is exit status 2: %t", name, usage)
		}
	}
}

// TestExtUsage: wrong usage is exit status 2, before anything is run.
func TestExtUsage(t *testing.T) {
	for want, args := range map[string]string{
		"give one package":            "ext run",
		"not 2":                       "ext lint a.zip b.zip",
		"unknown flag":                "ext run a.zip --bogus",
		"sequence numbers start at 0": "ext run a.zip --seq -5",
	} {
		_, err := run(t, strings.Fields(args)...)
		if _, usage := errors.AsType[usageError](err); !usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	var seen bool
	l := &listener{broken{}, func() { seen = true }}
	if _, err := l.Write([]byte("x")); err == nil || !seen {
		t.Error("the failed write was not reported")
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, os.ErrClosed }

package userdata

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/peak"
)

// TestSEC4Memory limits the memory for reading the worst documents of the
// allowed size.
func TestSEC4Memory(t *testing.T) {
	const cc = "#cloud-config\n"
	zipped := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		if _, err := z.Write(b); err != nil {
			t.Error(err)
		}
		if err := z.Close(); err != nil {
			t.Error(err)
		}
		return out.Bytes()
	}
	var cases []peak.Case
	for name, doc := range map[string]func() []byte{
		"values":       func() []byte { return peak.Fill(cc+"packages: [", "a,", "]\n", maxConfig) },
		"lists":        func() []byte { return peak.Fill(cc+"packages: [", "[],", "]\n", maxConfig) },
		"maps":         func() []byte { return peak.Fill(cc+"packages: [", "{},", "]\n", maxConfig) },
		"empty values": func() []byte { return peak.Fill(cc+"packages:\n", "-\n", "", maxConfig) },
		"keys":         func() []byte { return peak.Fill(cc, "k%d:\n", "", maxConfig) },
		"anchors":      func() []byte { return peak.Fill(cc+"packages: [", "&a%d x,", "]\n", maxConfig) },
		"comments":     func() []byte { return peak.Fill(cc+"packages:\n", "- #\n", "", maxConfig) },
		"deep":         func() []byte { return peak.Fill(cc+"packages: ", "[", "", maxConfig) },
		"many parts": func() []byte {
			return peak.Fill("Content-Type: multipart/mixed; boundary=X\n\n", "--X\n\n#!/bin/sh\n", "--X--\n", MaxDocument)
		},
		"headers": func() []byte {
			return peak.Fill("Content-Type: multipart/mixed; boundary=X\n\n--X\n", "A%d: b\n", "\n\n--X--\n", MaxDocument)
		},
		"a script": func() []byte { return peak.Fill("#!/bin/sh\n", "#", "", MaxDocument) },
		"base64": func() []byte {
			return []byte(base64.StdEncoding.EncodeToString(peak.Fill("#!/bin/sh\n", "#", "", MaxDocument*3/4)))
		},
		"packed": func() []byte { return zipped(peak.Fill("#!/bin/sh\n", "#", "", maxUnpacked)) },
		"packed parts": func() []byte {
			part := "--X\nContent-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n" +
				base64.StdEncoding.EncodeToString(zipped(peak.Fill("#!/bin/sh\n", "#", "", maxUnpacked/4))) + "\n"
			return []byte("Content-Type: multipart/mixed; boundary=X\n\n" + strings.Repeat(part, 20) + "--X--\n")
		},
	} {
		cases = append(cases, peak.Case{Name: name, Doc: doc, Read: func(b []byte) error {
			if d := Load(user(string(b))); len(d.Problems) > 0 {
				return errors.New(d.Problems[0].Error())
			}
			return nil
		}})
	}
	peak.Run(t, cases)
}

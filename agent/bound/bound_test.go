package bound

import (
	"bytes"
	"encoding/asn1"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/peak"
)

// TestCounts: everything in a document is counted, also where simple counting
// of characters would miss it.
func TestCounts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]int{ // nodes, depth
		`{}`:                         {1, 1},
		`[1,2,"a,b:c[",{"x":"\"}"}]`: {6, 2},
		`"[[[[\\"`:                   {0, 0},
		`{"a":[[[]]],"b":{}}`:        {8, 4},
	} {
		check(t, text, want, Limits.JSON)
	}
	for text, want := range map[string][2]int{
		`<a/>`:                                {1, 1},
		`<a b="1" c='2' d= "=&gt;>" e = ""/>`: {5, 1},
		`<a>x<b/>y</a>`:                       {4, 2},
		`<a><!-- <b><c> --><?p <d>?><![CDATA[<e>]]></a>`: {4, 1},
		`<a><b></b><b></b></a>`:                          {3, 2},
	} {
		check(t, text, want, Limits.XML)
	}
	for text, want := range map[string][2]int{
		"\x05\x00":                 {1, 0},
		"\x30\x04\x05\x00\x05\x00": {3, 1},
		"\x30\x80\x05\x00\x30\x00\x00\x00\x05\x00": {4, 2},
		"\x04\x04\x30\x02\x30\x00":                 {1, 0},
	} {
		check(t, text, want, Limits.DER)
	}
}

func check(t *testing.T, text string, want [2]int, hold func(Limits, []byte) error) {
	t.Helper()
	for i, l := range []Limits{{Nodes: want[0]}, {Depth: want[1]}} {
		if want[i] > 0 && hold(l, []byte(text)) != nil {
			t.Errorf("%q: %v with %+v", text, hold(l, []byte(text)), l)
		}
		l.Nodes, l.Depth = max(0, l.Nodes-1), max(0, l.Depth-1)
		if l != (Limits{}) && hold(l, []byte(text)) == nil {
			t.Errorf("%q: no error with %+v", text, l)
		}
	}
}

func TestNoDocumentTypes(t *testing.T) {
	t.Parallel()
	for text, refused := range map[string]bool{
		`<!DOCTYPE a [<!ENTITY b "c">]><a/>`: true, `<?xml version="1.0"?><!doctype a><a/>`: true, `<a><!X></a>`: true,
		`<a><!--<!DOCTYPE a>--></a>`: false, `<a><![CDATA[<!DOCTYPE a>]]></a>`: false, `<a b="<!DOCTYPE"/>`: false,
	} {
		if err := (Limits{}).XML([]byte(text)); (err != nil) != refused {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestQuotesAreShort(t *testing.T) {
	t.Parallel()
	if got := Quote(strings.Repeat("ü", 1<<20)); len(got) > 200 || !strings.HasSuffix(got, `ü…"`) {
		t.Errorf("Quote() has %d bytes", len(got))
	}
	if got := Quote("a"); got != `"a"` {
		t.Errorf("Quote() = %s", got)
	}
}

// FuzzCounts: no decoder finds more in a document than was counted.
func FuzzCounts(f *testing.F) {
	for _, s := range []string{`{"a":[1,"x"],"b":null}`, `<a b="c"><!-- d --><e>f</e><![CDATA[g]]><?h i?></a>`, "\x30\x80\x24\x04\x04\x00\x04\x00\x00\x00", `<a b= "" c ='x=y'>`} {
		f.Add([]byte(s))
	}
	f.Fuzz(peak.Target(func(t *testing.T, b []byte) {
		n, deep := jsonNodes(b)
		holds(t, "JSON", b, n, deep, Limits.JSON)
		n, deep = xmlNodes(b)
		holds(t, "XML", b, n, deep, Limits.XML)
		n, deep = derNodes(b, 1)
		holds(t, "DER", b, n, deep, Limits.DER)
	}))
}

func holds(t *testing.T, kind string, b []byte, n, deep int, hold func(Limits, []byte) error) {
	t.Helper()
	if n > 1 && hold(Limits{Nodes: n - 1}, b) == nil {
		t.Errorf("%s %q: %d nodes were not counted", kind, b, n)
	}
	if deep > 1 && hold(Limits{Depth: deep - 1}, b) == nil {
		t.Errorf("%s %q: %d levels were not counted", kind, b, deep)
	}
}

// jsonNodes returns the number of containers and what they contain, and the
// depth.
func jsonNodes(b []byte) (n, deep int) {
	if !json.Valid(b) {
		return 0, 0
	}
	d := json.NewDecoder(bytes.NewReader(b))
	depth := 0
	for {
		tok, err := d.Token()
		if err != nil {
			return n, deep
		}
		switch tok {
		case json.Delim('['), json.Delim('{'):
			depth++
			deep = max(deep, depth)
			n++
		case json.Delim(']'), json.Delim('}'):
			depth--
		default:
			if depth > 0 && d.More() {
				n++
			}
		}
	}
}

func xmlNodes(b []byte) (n, deep int) {
	d := xml.NewDecoder(bytes.NewReader(b))
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	depth := 0
	for {
		tok, err := d.RawToken()
		if err != nil {
			return n, deep
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			n += 1 + len(tok.Attr)
			depth++
			deep = max(deep, depth)
		case xml.EndElement:
			depth--
		default:
			n++
		}
	}
}

func derNodes(b []byte, depth int) (n, deep int) {
	for len(b) > 0 && depth < 100 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(b, &v)
		if err != nil {
			return n, deep
		}
		n++
		if v.IsCompound {
			m, d := derNodes(v.Bytes, depth+1)
			n, deep = n+m, max(deep, depth, d)
		}
		b = rest
	}
	return n, deep
}

// TestErrors: a caller can distinguish a limit from other errors.
func TestErrors(t *testing.T) {
	t.Parallel()
	err := Limits{Bytes: 3}.JSON([]byte("[[[]]]"))
	if e, ok := errors.AsType[*Error](err); !ok || e.Max != 3 || err.Error() != "more than 3 bytes" {
		t.Errorf("JSON() = %v", err)
	}
}

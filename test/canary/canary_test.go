package canary

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

func TestEveryFormIsFound(t *testing.T) {
	t.Parallel()
	const word = "p4ss/w0rd+of <canary> & more=="
	s := New(map[string]string{"word": word, "long": "0123456789abcdefghijklmnopqrstuvwxyzABCDEF"})
	for _, text := range []string{
		word, "x" + word + "x", strings.ToUpper(word), strings.Join(strings.Split(word, ""), "\n"), fmt.Sprintf("%q", "a\n"+word),
		url.QueryEscape(word), url.QueryEscape(url.QueryEscape(word)), url.PathEscape(word), `p4ss\/w0rd+of <canary> & more==`,
		`p4ss/w0rd+of \u003ccanary\u003e \u0026 more==`, "p4ss/w0rd+of &lt;canary&gt; &amp; more==", fmt.Sprintf("%x", word), fmt.Sprintf("%X", word),
		base64.StdEncoding.EncodeToString([]byte(word)), base64.URLEncoding.EncodeToString([]byte("u:" + word)), base64.RawStdEncoding.EncodeToString([]byte("a" + word + "b")),
		"p\x004\x00s\x00s\x00/\x00w\x000\x00r\x00d\x00+\x00o\x00f\x00 \x00<\x00c\x00a\x00n\x00a\x00r\x00y\x00>\x00 \x00&\x00 \x00m\x00o\x00r\x00e\x00=\x00=\x00",
	} {
		if hits := s.In(text); len(hits) != 1 || hits[0].Secret != "word" {
			t.Errorf("%q: %v", text, hits)
		}
	}
	for _, text := range []string{"…qrstuvwxyzABCDEFGHIJ", "…6789abcdefghijklmnopqrstuvwxyzABCDEF tail", "0123456789abcdefghijklmn…"} {
		if hits := s.In(text); (len(hits) == 1) != (text[3] != 'q') {
			t.Errorf("%q: %v", text, hits)
		}
	}
	if hits := s.In("nothing of the kind: p4ss w0rd canary"); hits != nil {
		t.Errorf("found %v", hits)
	}
}

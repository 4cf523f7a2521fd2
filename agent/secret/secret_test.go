package secret_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/secret"
)

type holder struct {
	Public  secret.Secret
	private secret.Secret
	addr    secret.URL
}

func TestNoWayOfPrintingShowsASecret(t *testing.T) {
	t.Parallel()
	const word = "canary-7f3a"
	s := secret.New(word)
	u := secret.NewURL("https://st.example/c/b?sv=1&sig=" + word)
	h := holder{Public: s, private: s, addr: u}
	var log strings.Builder
	l := zerolog.New(&log)
	l.Info().Interface("h", h).Stringer("s", s).Stringer("u", u).Any("a", &h).Msg("x")
	js, err := json.Marshal(map[string]any{"h": h, "s": s, "u": u, "p": &s})
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{log.String(), string(js)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		texts = append(texts, fmt.Sprintf(verb, s), fmt.Sprintf(verb, &s), fmt.Sprintf(verb, h), fmt.Sprintf(verb, &h), fmt.Sprintf(verb, u), fmt.Sprintf(verb, []any{s, u}))
	}
	for _, text := range texts {
		if strings.Contains(text, word) || strings.Contains(text, fmt.Sprintf("%x", word)) {
			t.Errorf("secret shown: %s", text)
		}
	}
	if got := s.Reveal(); got != word {
		t.Errorf("Reveal() = %q, want %q", got, word)
	}
}

func TestURLShowsWhereWithoutTheSignature(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                              "",
		"\n https://a.example/x?sig=1 ": "https://a.example/x?[redacted]",
		"https://a.example/x":           "https://a.example/x",
		"http://h:80/m/%2D?comp=x":      "http://h:80/m/%2D?[redacted]",
		"no scheme?sig=1":               "no scheme?[redacted]",
	} {
		if got := secret.NewURL(in).String(); got != want {
			t.Errorf("NewURL(%q).String() = %q, want %q", in, got, want)
		}
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"get https://a.example/b?sv=1&sig=abc%3d now":   "get https://a.example/b?<redacted> now",
		"https://a.example/b?SIG=abc":                   "https://a.example/b?<redacted>",
		"https://a.example/b?x=1&sig=abc":               "https://a.example/b?<redacted>",
		"https://a.example/b?x=1":                       "https://a.example/b?x=1",
		`{"u":"https://a.example/b?se=1&sig=zz","k":1}`: `{"u":"https://a.example/b?<redacted>","k":1}`,
		"sv=1&sig=0123456789abc rest":                   "sv=1&sig=<redacted> rest",
	} {
		if got := secret.Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

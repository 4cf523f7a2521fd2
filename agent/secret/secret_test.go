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

		// As escaped by JSON, XML or another URL.
		`{"u":"https:\/\/a.example\/b?x=1\u0026sig=abc%2B\u003d","k":1}`:       `{"u":"https:\/\/a.example\/b?<redacted>","k":1}`,
		`"{\"u\":\"https://a.example/b?se=1\\u0026sig=zz\",\"k\":1}"`:          `"{\"u\":\"https://a.example/b?<redacted>\",\"k\":1}"`,
		`"Get \"https://a.example/b?sig=abc\": refused\nsecond"`:               `"Get \"https://a.example/b?<redacted>\": refused\nsecond"`,
		`?sv=1\u0026sig=0123456789\u002babc\u0026se=2`:                         `?sv=1\u0026sig=<redacted>\u0026se=2`,
		`sv=1&amp;sig=0123456789&#43;abc;`:                                     `sv=1&amp;sig=<redacted>;`,
		"to=https%3A%2F%2Fa.example%2Fb%3Fsv%3D1%26sig%3D0123456789%252B tail": "to=https%3A%2F%2Fa.example%2Fb%3Fsv%3D1%26sig%3D<redacted> tail",
		"%2526SIG%253D0123456789ab":                                            "%2526SIG%253D<redacted>",
		"design=0123456789abc":                                                 "design=0123456789abc",

		"DefaultEndpointsProtocol=https;AccountName=a;AccountKey=AAAABBBBCCCC+/==;EndpointSuffix=x": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=<redacted>;EndpointSuffix=x",
		"Endpoint=sb://b/;SharedAccessKey=AAAABBBBCCCC=":                                            "Endpoint=sb://b/;SharedAccessKey=<redacted>",
		"proxy http://joe:p4ss:w@proxy:3128/ used":                                                  "proxy http://<redacted>@proxy:3128/ used",
		"HttpProxy.Host = joe:p4ss@proxy":                                                           "HttpProxy.Host = <redacted>@proxy",
		"line 1: joe:$6$salt$AAAABBBBCCCCDDDDEEEE/.:19000:0:":                                       "line 1: joe:<redacted>:19000:0:",
		"costs $5 and $6$ more":                                                                     "costs $5 and $6$ more",
		`"{\"u\":\"https:\\/\\/joe:p4ss@h\\/b\"}"`:                                                  `"{\"u\":\"https:\\/\\/<redacted>@h\\/b\"}"`,
		"one\nGet https://a.example/b?SV=1&sig=abc: no\nthree sig=AAAABBBBCCCC":                     "one\nGet https://a.example/b?<redacted> no\nthree sig=<redacted>",
		"git clone https://ghp_abcdef@git.example/r":                                                "git clone https://<redacted>@git.example/r",
		"amqp://u:p@h, ssh://git@h, http://h/a@b, me@example.org":                                   "amqp://<redacted>@h, ssh://git@h, http://h/a@b, me@example.org",
		`Authorization: Bearer abcdefghijklmnop.qrs`:                                                `Authorization: Bearer <redacted>`,
		`{"access_token":"eyJhbGciOiJI.eyJpc3MiOiJodHRw.c2ln_-"}`:                                   `{"access_token":"<redacted>"}`,
		"a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----\nb":          "a\n-----BEGIN RSA PRIVATE KEY-----<redacted>-----END RSA PRIVATE KEY-----\nb",
		`{"k":"-----BEGIN PRIVATE KEY-----\nMIIE\nabc","n":1}`:                                      `{"k":"-----BEGIN PRIVATE KEY-----<redacted>","n":1}`,
		"MIIEabcd\nabc=\n-----END PRIVATE KEY-----\nb":                                              "<redacted>-----END PRIVATE KEY-----\nb",
		"-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----":                              "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
	} {
		got := secret.Redact(in)
		if got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
		if again := secret.Redact(got); again != got {
			t.Errorf("Redact(%q) = %q, want no change", got, again)
		}
		if json.Valid([]byte(in)) && !json.Valid([]byte(got)) {
			t.Errorf("Redact(%s) = %s, which is no JSON any more", in, got)
		}
	}
}

// BenchmarkRedact: logs of several megabytes are redacted.
func BenchmarkRedact(b *testing.B) {
	for name, line := range map[string]string{
		"usual":   "2026-11-25T19:14:00.721351Z INFO ExtHandler [A.B-1.0] ProcessExtensionsGoalState completed [incarnation_2 143 ms]\n",
		"address": "2026-11-25T19:14:00.721351Z INFO ExtHandler [A.B-1.0] Get http://168.63.129.16/machine/?comp=goalstate&type=x 200\n",
		"secrets": "2026-11-25T19:14:00.721351Z INFO ExtHandler Get https://st.example/c?sv=1&sig=AAAABBBBCCCC user=me@example.org key=5 bearer --\n",
	} {
		b.Run(name, func(b *testing.B) {
			text := strings.Repeat(line, 65536/len(line))
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				secret.Redact(text)
			}
		})
	}
}

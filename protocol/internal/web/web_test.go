package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/protocol"
)

// answers is a RoundTripper from a function.
type answers func(*http.Request) (*http.Response, error)

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

func status(code int, body string) *http.Response {
	return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

const addr = "http://168.63.129.16/machine/?comp=goalstate"

func TestStatusClasses(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]struct {
		ok    bool
		tries int
	}{
		200: {true, 1}, 201: {true, 1}, 202: {true, 1},
		204: {false, 1}, 301: {false, 1}, 302: {false, 1}, 400: {false, 1}, 401: {false, 1}, 404: {false, 1}, 409: {false, 1}, 410: {false, 1},
		205: {false, 4}, 206: {false, 4}, 403: {false, 4}, 408: {false, 4}, 425: {false, 4}, 429: {false, 4}, 500: {false, 4}, 501: {false, 4}, 502: {false, 4}, 503: {false, 4}, 504: {false, 4}, 507: {false, 4},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			c := New(answers(func(*http.Request) (*http.Response, error) { n++; return status(code, ""), nil }), "ua", nil)
			_, err := c.Do(t.Context(), Request{Op: "x", URL: addr, Tries: 4, Patience: time.Hour})
			if (err == nil) != want.ok || n != want.tries {
				t.Errorf("%d: %v after %d tries, want ok %v after %d", code, err, n, want.ok, want.tries)
			}
		})
	}
}

func TestA400OfTheRelayIsTransient(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]int{"": 3, `{"errorCode":"InvalidContainerConfiguration"}`: 1} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			c := New(answers(func(*http.Request) (*http.Response, error) { n++; return status(400, body), nil }), "ua", nil)
			_, err := c.Do(t.Context(), Request{Op: "x", URL: addr, Tries: 3, Relay: true})
			if err == nil || n != want {
				t.Errorf("%q: %d tries, want %d", body, n, want)
			}
		})
	}
}

// TestNoHotLoop polls like the agent does, every six seconds, against each
// permanent fault for three hours: no hour sees more than 20 attempts, no
// ten minutes more than one line.
func TestNoHotLoop(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]answers{
		"503": func(*http.Request) (*http.Response, error) { return status(503, ""), nil },
		"404": func(*http.Request) (*http.Response, error) { return status(404, ""), nil },
		"410": func(*http.Request) (*http.Response, error) { return status(410, ""), nil },
		"refused": func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
		},
		"hangs": func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() },
	} {
		synctest.Test(t, func(t *testing.T) {
			var at []time.Time
			c := New(answers(func(r *http.Request) (*http.Response, error) { at = append(at, time.Now()); return fault(r) }), "ua", nil)
			start := time.Now()
			lines := 0
			for time.Since(start) < 3*time.Hour {
				_, err := c.Do(t.Context(), Request{Op: "x", URL: addr, Tries: 1})
				if err == nil {
					t.Fatalf("%s: no error", name)
				}
				if protocol.Loud(err) {
					lines++
				}
				time.Sleep(6 * time.Second)
			}
			for i := range at {
				n := 0
				for _, b := range at[i:] {
					if b.Sub(at[i]) < time.Hour {
						n++
					}
				}
				if n > protocol.PaceHourly {
					t.Errorf("%s: %d attempts within an hour", name, n)
					break
				}
			}
			if len(at) < 30 {
				t.Errorf("%s: gave up after %d attempts", name, len(at))
			}
			if lines > 19 {
				t.Errorf("%s: %d lines in three hours", name, lines)
			}
		})
	}
}

// TestHealing: when a machine that did not answer is back, a canary notices
// within a minute, however long it was away.
func TestHealing(t *testing.T) {
	t.Parallel()
	for _, away := range []time.Duration{10 * time.Second, 5 * time.Minute, 5 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			up := func() bool { return time.Since(start) > away }
			rt := answers(func(*http.Request) (*http.Response, error) {
				if up() {
					return status(200, ""), nil
				}
				return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
			})
			c := New(rt, "ua", func(context.Context, string, bool) error {
				if up() {
					return nil
				}
				return errors.New("refused")
			})
			for {
				if _, err := c.Do(t.Context(), Request{Op: "x", URL: addr, Tries: 1}); err == nil {
					break
				}
				time.Sleep(time.Second)
			}
			if late := time.Since(start) - away; late > time.Minute {
				t.Errorf("away %v: healed %v late", away, late)
			}
		})
	}
}

// TestOneDocumentHeals: the machine always answers, but one of its documents
// fails, so no canary helps and only the attempts of each hour can find out
// that it works again.
func TestOneDocumentHeals(t *testing.T) {
	t.Parallel()
	limit := func(age time.Duration) time.Duration {
		switch {
		case age > 70*time.Minute:
			return protocol.PaceSteady + 10*time.Second
		case age > 3*time.Minute:
			return max(time.Minute, min(age/3, 9*time.Minute))
		}
		return time.Minute
	}
	for away := 5 * time.Second; away < 3*time.Hour; away += max(7*time.Second, away/20) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			c := New(answers(func(*http.Request) (*http.Response, error) {
				if time.Since(start) > away {
					return status(200, ""), nil
				}
				return status(500, ""), nil
			}), "ua", func(context.Context, string, bool) error { return nil })
			for {
				if _, err := c.Do(t.Context(), Request{Op: "x", URL: addr, Tries: 1}); err == nil {
					break
				}
				time.Sleep(6 * time.Second) // as the agent polls
			}
			if late := time.Since(start) - away; late > limit(away) {
				t.Errorf("away %v: healed %v late, want at most %v", away, late, limit(away))
			}
		})
	}
}

// TestSiblingsHeal: the first request that works lets the others of the same
// machine try at once.
func TestSiblingsHeal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bad := true
		c := New(answers(func(*http.Request) (*http.Response, error) {
			if bad {
				return status(500, ""), nil
			}
			return status(200, ""), nil
		}), "ua", nil)
		ask := func(op, port string) error {
			_, err := c.Do(t.Context(), Request{Op: op, URL: "http://168.63.129.16:" + port + "/", Tries: 1})
			return err
		}
		for range 600 {
			_, _ = ask("a", "80"), ask("b", "32526")
			time.Sleep(6 * time.Second)
		}
		bad = false
		for ask("a", "80") != nil {
			time.Sleep(time.Second)
		}
		if err := ask("b", "32526"); err != nil {
			t.Errorf("b still waits: %v", err)
		}
	})
}

func TestWaitsEndWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(answers(func(*http.Request) (*http.Response, error) { return status(503, ""), nil }), "ua", nil)
		why := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(why) })
		start := time.Now()
		_, err := c.Do(ctx, Request{Op: "x", URL: addr, Tries: -1, Patience: Forever})
		if !errors.Is(err, why) || time.Since(start) != time.Minute {
			t.Errorf("Do() = %v after %v", err, time.Since(start))
		}
	})
}

func TestAttemptsAreBoundedInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := New(answers(func(r *http.Request) (*http.Response, error) {
			pr, pw := io.Pipe()
			go func() { // a drop every five seconds
				for {
					select {
					case <-r.Context().Done():
						_ = pw.CloseWithError(r.Context().Err())
						return
					case <-time.After(5 * time.Second):
						_, _ = pw.Write([]byte("x"))
					}
				}
			}()
			return &http.Response{StatusCode: 200, Body: pr, ContentLength: -1, Header: http.Header{}}, nil
		}), "ua", nil)
		start := time.Now()
		_, err := c.Do(t.Context(), Request{Op: "x", URL: addr, Tries: 1})
		if !errors.Is(err, errSlow) || time.Since(start) > 11*time.Second {
			t.Errorf("Do() = %v after %v", err, time.Since(start))
		}
	})
}

func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	c := New(answers(func(*http.Request) (*http.Response, error) { return status(200, strings.Repeat("x", 1001)), nil }), "ua", nil)
	_, err := c.Do(t.Context(), Request{Op: "x", URL: addr, Limit: 1000})
	if se, ok := errors.AsType[*SizeError](err); !ok || se.Limit != 1000 {
		t.Errorf("Do() = %v, want a SizeError", err)
	}
}

// full is a sink on a disk that is full.
type full struct{}

func (full) Header() http.Header { return nil }
func (full) Open(int, http.Header) (io.Writer, error) {
	return nil, &os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}
}
func (full) Restart() bool    { return true }
func (full) Resumable() int64 { return 0 }

// TestPAT1OurDiskSlowsNobodyDown: an answer that could not be used because of
// this machine is no fault of the request. It has no pace, so the next attempt
// can be made when there is room; other strange answers have one.
func TestPAT1OurDiskSlowsNobodyDown(t *testing.T) {
	t.Parallel()
	unpack := fmt.Errorf("unpack: %w", &os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC})
	for name, tc := range map[string]struct {
		sink  Sink
		check error
		paced bool
	}{
		"writing":   {full{}, nil, false},
		"unpacking": {nil, unpack, false},
		"a page":    {nil, errors.New("no zip file"), true},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			c := New(answers(func(*http.Request) (*http.Response, error) { n++; return status(200, "x"), nil }), "ua", nil)
			for range 3 {
				_, err := c.Do(t.Context(), Request{Op: "x", URL: addr, Tries: 1, Sink: tc.sink, Check: func(*Response) error { return tc.check }})
				if protocol.OutlookOf(err, protocol.Never) != protocol.Later || protocol.NextTry(err).IsZero() == tc.paced {
					t.Errorf("%s: %v, next try %v", name, err, protocol.NextTry(err))
				}
			}
			if want := map[bool]int{true: 1, false: 3}[tc.paced]; n != want {
				t.Errorf("%s: %d requests, want %d", name, n, want)
			}
		})
	}
}

func TestRetryAfterIsBelievedUpToAMinute(t *testing.T) {
	t.Parallel()
	for after, want := range map[string]time.Duration{"30": 30 * time.Second, "86400": time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			c := New(answers(func(*http.Request) (*http.Response, error) {
				if n++; n == 1 {
					r := status(429, "")
					r.Header.Set("Retry-After", after)
					return r, nil
				}
				return status(200, ""), nil
			}), "ua", nil)
			start := time.Now()
			if _, err := c.Do(t.Context(), Request{Op: "x", URL: addr, Patience: time.Hour}); err != nil || time.Since(start) != want {
				t.Errorf("%s: %v after %v, want %v", after, err, time.Since(start), want)
			}
		})
	}
}

func TestErrorsHoldNoSecret(t *testing.T) {
	t.Parallel()
	for name, rt := range map[string]answers{
		"network": func(r *http.Request) (*http.Response, error) {
			return nil, &url.Error{Op: "Get", URL: r.URL.String(), Err: errors.New("broken")}
		},
		"body": func(r *http.Request) (*http.Response, error) { return status(404, "no blob at "+r.URL.String()), nil },
	} {
		c := New(rt, "ua", nil)
		_, err := c.Do(t.Context(), Request{Op: "x", URL: "https://st.example/b?sv=1&sig=canary", Tries: 1})
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestProxyIsNeverForTheHost(t *testing.T) {
	t.Parallel()
	p := &Proxy{HTTP: "http://user:pw@proxy.example:3128", HTTPS: "proxy.example:3129", NoProxy: "10.0.0.0/8, .corp.example,blob.example:8443, 192.0.2.7"}
	for u, want := range map[string]string{
		"http://168.63.129.16/":       "",
		"http://168.63.129.16:32526/": "",
		"http://169.254.169.254/":     "",
		"http://127.0.0.1:8080/":      "",
		"http://[::1]/":               "",
		"https://st.blob.example/x":   "http://proxy.example:3129",
		"http://st.blob.example/x":    "http://user:pw@proxy.example:3128",
		"https://10.1.2.3/x":          "",
		"https://a.corp.example/x":    "",
		"https://notcorp.example/x":   "http://proxy.example:3129",
		"https://blob.example:8443/x": "",
		"https://blob.example/x":      "http://proxy.example:3129",
		"https://192.0.2.7/x":         "",
	} {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.For(parsed)
		if err != nil {
			t.Errorf("%s: %v", u, err)
		}
		text := ""
		if got != nil {
			text = got.String()
		}
		if text != want {
			t.Errorf("For(%s) = %q, want %q", u, text, want)
		}
	}
}

// TestERR7SilentNetworkIsUnreachable: with a network that drops all packets a
// peer counts as not reached, for attempts of every length, so that a new
// route or address ends the wait. A peer that was reached and does not answer
// counts as slow.
func TestERR7SilentNetworkIsUnreachable(t *testing.T) {
	t.Parallel()
	if NewDialer().Timeout >= DefaultTimeout {
		t.Errorf("a dial may take %v, a request %v", NewDialer().Timeout, DefaultTimeout)
	}
	silent := func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, DialTimeout) // the dialer's own
		defer cancel()
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
	}
	mute := func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, there) }()
		return here, nil
	}
	for name, tc := range map[string]struct {
		dial Dial
		code string
	}{"no answer to SYN": {silent, "host-unreachable"}, "connected, no answer": {mute, "host-timeout"}} {
		for _, timeout := range []time.Duration{0, time.Second, 5 * time.Second, time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				rt := Transport(tc.dial, nil, nil)
				defer rt.CloseIdleConnections()
				c := New(rt, "ua", nil)
				_, err := c.Do(t.Context(), Request{Op: "x", URL: addr, Tries: 1, Timeout: timeout})
				var code interface{ Code() string }
				if !errors.As(err, &code) || code.Code() != tc.code {
					t.Errorf("%s, timeout %v: %v, want %s", name, timeout, err, tc.code)
				}
				if got := c.faults.unreached("x 168.63.129.16 "); got != (tc.code == "host-unreachable") {
					t.Errorf("%s, timeout %v: counts as unreachable: %v", name, timeout, got)
				}
				time.Sleep(DialTimeout) // for the dial that was given up
			})
		}
	}
}

// TestERR7NewRouteWakes: the network drops all packets for a while, and then
// there is another one: waiting requests are made again, also one in the
// middle of a dial that would never end.
func TestERR7NewRouteWakes(t *testing.T) {
	t.Parallel()
	for _, away := range []time.Duration{time.Second, 12 * time.Second, 33 * time.Second, time.Minute, 10 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			up := func() bool { return time.Since(start) >= away }
			// A dial that began on the old network never succeeds.
			c := New(Transport(func(ctx context.Context, _, _ string) (net.Conn, error) {
				if !up() {
					ctx, cancel := context.WithTimeout(ctx, DialTimeout) // the dialer's own
					defer cancel()
					<-ctx.Done()
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
				}
				here, there := net.Pipe()
				go func() {
					_, _ = http.ReadRequest(bufio.NewReader(there))
					_, _ = io.WriteString(there, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				}()
				return here, nil
			}, nil, nil), "ua", nil)
			c.Routes = func() (func(context.Context) error, func(), error) {
				next := func(ctx context.Context) error {
					left := away - time.Since(start)
					if left <= 0 {
						<-ctx.Done()
						return ctx.Err()
					}
					select {
					case <-time.After(left):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				return next, func() {}, nil
			}
			_, err := c.Do(t.Context(), Request{Op: "x", URL: addr, Tries: -1, Patience: Forever})
			// The first attempt is not interrupted: changes are listened to
			// only after a failure.
			most := 2 * time.Second
			if away < DialTimeout {
				most += DialTimeout
			}
			if late := time.Since(start) - away; err != nil || late > most {
				t.Errorf("away for %v: %v, %v late", away, err, late)
			}
			time.Sleep(DialTimeout) // for the dials that were given up
		})
	}
}

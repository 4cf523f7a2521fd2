package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Dial opens connections; the type of net.Dialer.DialContext.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// Proxy says through which proxy blobs are reached. The host's own endpoints
// never use it (protocol/SPEC.md §2.7).
type Proxy struct {
	// HTTP and HTTPS are proxy URLs by scheme of the target; user and
	// password may be part of them.
	HTTP, HTTPS string
	// NoProxy lists addresses, networks (CIDR) and domain suffixes.
	NoProxy string
}

// idle is how long a connection is kept without a request: longer than the
// longest pause between two polls of the goal state, as a new connection costs
// seven packets, and shorter than a minute, as servers other than the
// platform's may close it after one, just when the next request is sent.
const idle = 45 * time.Second

// DialTimeout is the longest that opening a connection may take: enough for
// three SYNs. It is below DefaultTimeout, so that a peer that was not reached
// can be told from one that was reached and does not answer.
const DialTimeout = 8 * time.Second

// NewDialer makes the dialer for the platform's own addresses. It sends no
// keep-alive probes: a request that gets no answer ends after DefaultTimeout
// with or without them, and on a connection that is used every few seconds
// they would be a good part of the traffic.
func NewDialer() *net.Dialer { return &net.Dialer{Timeout: DialTimeout, KeepAlive: -1} }

// Transport makes a RoundTripper that follows no redirect, keeps no cookies
// and asks for no compression. proxy nil: never one.
func Transport(dial Dial, proxy *Proxy, roots *x509.CertPool) *http.Transport {
	if dial == nil {
		dial = (&net.Dialer{Timeout: DialTimeout}).DialContext
	}
	t := &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:    DefaultTimeout,
		DisableCompression:     true,
		MaxIdleConns:           8,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        idle,
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         4 << 10,
		WriteBufferSize:        4 << 10,
	}
	if proxy != nil {
		t.Proxy = func(r *http.Request) (*url.URL, error) { return proxy.For(r.URL) }
	}
	return t
}

// Platform reports whether the host is the platform itself, or this machine.
func Platform(host string) bool {
	if host == "168.63.129.16" || host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && (a.IsLoopback() || a.IsLinkLocalUnicast())
}

// For returns the proxy for an address, nil for none. It is here and not from
// a library because no_proxy has no standard: this is the rule of
// protocol/SPEC.md §2.7 (exact address, network, domain suffix), with the
// spellings ".example", "*.example", "host:port" and "*" that people use.
func (p *Proxy) For(u *url.URL) (*url.URL, error) {
	raw := p.HTTP
	if u.Scheme == "https" {
		raw = p.HTTPS
	}
	if raw == "" || Platform(u.Hostname()) || p.exempt(u) {
		return nil, nil
	}
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	out, err := url.Parse(raw)
	if err != nil || out.Host == "" {
		return nil, errProxy // the text may hold a password
	}
	return out, nil
}

func (p *Proxy) exempt(u *url.URL) bool {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	addr, aerr := netip.ParseAddr(host)
	for rule := range strings.FieldsFuncSeq(strings.ToLower(p.NoProxy), func(r rune) bool { return r == ',' || r == ' ' || r == ';' }) {
		if rule == "*" {
			return true
		}
		if n, err := netip.ParsePrefix(rule); err == nil {
			if aerr == nil && n.Contains(addr.Unmap()) {
				return true
			}
			continue
		}
		if h, port, err := net.SplitHostPort(rule); err == nil {
			if port != u.Port() {
				continue
			}
			rule = h
		}
		if a, err := netip.ParseAddr(strings.Trim(rule, "[]")); err == nil {
			if aerr == nil && a.Unmap() == addr.Unmap() {
				return true
			}
			continue
		}
		rule = strings.TrimLeft(rule, "*.")
		if rule != "" && (host == rule || strings.HasSuffix(host, "."+rule)) {
			return true
		}
	}
	return false
}

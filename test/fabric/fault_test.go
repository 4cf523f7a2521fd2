package fabric

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func (c client) try(url string) (int, string, error) {
	req, err := http.NewRequestWithContext(c.t.Context(), "GET", url, nil)
	if err != nil {
		return 0, "", err
	}
	for k, v := range wireHeader {
		req.Header.Set(k, v)
	}
	resp, err := c.vm.Client().Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

const goalStateURL = "http://168.63.129.16/machine/?comp=goalstate"

func TestFaultTimesAndSkip(t *testing.T) {
	f, vm, c := testFabric(t)
	if _, err := f.Fail(Fault{Kind: GoalState, Skip: 1, Times: 2, Status: 503}); err != nil {
		t.Fatal(err)
	}
	var got []int
	for range 4 {
		code, _, _ := c.try(goalStateURL)
		got = append(got, code)
	}
	if got[0] != 200 || got[1] != 503 || got[2] != 503 || got[3] != 200 {
		t.Errorf("statuses %v", got)
	}
	if n := vm.Requests(GoalState); n != 4 {
		t.Errorf("%d requests counted", n)
	}
	if len(f.Faults()) != 0 {
		t.Errorf("an expired fault is listed: %+v", f.Faults())
	}
}

func TestFaultEffects(t *testing.T) {
	f, vm, c := testFabric(t)
	set := func(fault Fault) {
		t.Helper()
		f.RemoveFault(0)
		fault.Kind = GoalState
		if _, err := f.Fail(fault); err != nil {
			t.Fatal(err)
		}
	}
	set(Fault{Reset: true})
	if _, _, err := c.try(goalStateURL); err == nil {
		t.Error("no error with reset")
	}
	n := 50
	set(Fault{Truncate: &n})
	if _, body, err := c.try(goalStateURL); !errors.Is(err, io.ErrUnexpectedEOF) || len(body) != 50 {
		t.Errorf("truncated: %d bytes, %v", len(body), err)
	}
	body := "<html>captive portal</html>"
	set(Fault{Body: &body, ContentType: "text/html"})
	if code, got, err := c.try(goalStateURL); code != 200 || got != body || err != nil {
		t.Errorf("%d %q %v", code, got, err)
	}
	set(Fault{VM: "vm-02", Status: 500})
	if code, _, _ := c.try(goalStateURL); code != 200 {
		t.Errorf("fault of another vm: %d", code)
	}
	set(Fault{Header: "x-ms-version: 2012-11-30", Status: 418})
	if code, _, _ := c.try(goalStateURL); code != 418 {
		t.Errorf("fault by header: %d", code)
	}
	f.RemoveFault(0)
	vm.Fail(VMSettings, 0, 1)
	id, err := f.Fail(Fault{Kind: VMSettings, Set: map[string]string{"ETag": ""}})
	if err != nil {
		t.Fatal(err)
	}
	f.RemoveFault(id - 1)
	if code, etag, _ := c.vmSettings(""); code != 200 || etag != "" {
		t.Errorf("%d etag %q", code, etag)
	}
	for _, bad := range []Fault{{}, {Kind: "["}, {Kind: "x", Probability: 2}, {Kind: "x", Status: 99}} {
		if _, err := f.Fail(bad); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
}

func TestFaultAfterRequestIsApplied(t *testing.T) {
	f, vm, c := testFabric(t)
	if _, err := f.Fail(Fault{Kind: BlobPut, Apply: true, Status: 500, Times: 1}); err != nil {
		t.Fatal(err)
	}
	code, _, _ := c.do("PUT", vm.StatusURL(), map[string]string{"x-ms-blob-type": "BlockBlob"}, statusBody("1"))
	if _, n := vm.StatusDocument(); code != 500 || n != 1 {
		t.Errorf("%d, %d documents", code, n)
	}
}

func TestFaultDelayDurationRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, c := testFabric(t)
		if _, err := f.Fail(Fault{Kind: GoalState, Delay: Duration(5 * time.Second), For: Duration(time.Minute)}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, _, err := c.try(goalStateURL); err != nil || time.Since(start) != 5*time.Second {
			t.Errorf("%v %v", time.Since(start), err)
		}
		time.Sleep(time.Minute)
		start = time.Now()
		if _, _, err := c.try(goalStateURL); err != nil || time.Since(start) != 0 {
			t.Errorf("%v %v", time.Since(start), err)
		}
		if _, err := f.Fail(Fault{Kind: GoalState, Rate: 500}); err != nil {
			t.Fatal(err)
		}
		start = time.Now()
		if _, _, err := c.try(goalStateURL); err != nil || time.Since(start) < 2*time.Second {
			t.Errorf("slow body: %v %v", time.Since(start), err)
		}
	})
}

func TestFaultSeed(t *testing.T) {
	run := func(seed uint64) string {
		f, _, c := testFabric(t)
		if _, err := f.Fail(Fault{Kind: "*", Probability: 0.5, Seed: seed, Status: 500}); err != nil {
			t.Fatal(err)
		}
		var s strings.Builder
		for range 30 {
			code, _, _ := c.try(goalStateURL)
			s.WriteByte(map[int]byte{200: '.', 500: 'x'}[code])
		}
		return s.String()
	}
	a, b, other := run(7), run(7), run(8)
	if a != b || a == other || !strings.Contains(a, "x") || !strings.Contains(a, ".") {
		t.Errorf("probability: %s %s %s", a, b, other)
	}
}

func TestPollingInFakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(t)
		vm := f.CreateVM("vm-01")
		start := time.Now()
		for time.Since(start) < 10*time.Minute {
			if code, _, _ := (client{t, vm}).try(goalStateURL); code != 200 {
				t.Fatal(code)
			}
			time.Sleep(6 * time.Second)
		}
		if n := vm.Requests(GoalState); n != 100 {
			t.Errorf("%d polls in ten minutes, want 100", n)
		}
	})
}

func TestAdminAndRemote(t *testing.T) {
	var lines bytes.Buffer
	f, vm, c := testFabric(t, func(o *Options) { o.Journal = &lines })
	addr, err := f.Listen(ARM, "127.0.0.1:0", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	r := Remote{URL: "http://" + addr.String()}
	ctx := wait(t)
	body := []byte(`{"properties":{"publisher":"Contoso","type":"One","typeHandlerVersion":"1.0","settings":{},"protectedSettings":{"k":"hunter2"}}}`)
	done := make(chan error, 1)
	go func() {
		_, err := r.PutExtension(ctx, "one", body, true)
		done <- err
	}()
	if err := vm.Wait(ctx, ExtensionIs("one", "Creating")); err != nil {
		t.Fatal(err)
	}
	c.putStatus(statusBody("2", handlerOf("Contoso.One", "1.0.10", "Ready", 0, "").ext(0, "", "success", "fine")))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if data, err := r.GetExtension(ctx, "one"); err != nil || !strings.Contains(string(data), "fine") {
		t.Errorf("%s %v", data, err)
	}
	if _, _, err := r.Do(ctx, "GET", "/_fabric/await?for=extension=one&timeout=1s", nil); err != nil {
		t.Error(err)
	}
	var re *RemoteError
	if _, _, err := r.Do(ctx, "GET", "/_fabric/await?for=ready&timeout=1ms", nil); !errors.As(err, &re) || re.Status != 408 || !strings.Contains(re.Body, "not reported") {
		t.Errorf("await without report: %v", err)
	}
	if _, _, err := r.Do(ctx, "POST", "/_fabric/faults", []byte(`{"kind":"goalstate","status":500,"times":1,"delay":"1ms"}`)); err != nil {
		t.Error(err)
	}
	if code, _, _ := c.try(goalStateURL); code != 500 {
		t.Errorf("fault over http: %d", code)
	}
	if _, _, err := r.Do(ctx, "PATCH", "/_fabric/vms/vm-01", []byte(`{"requiredFeatures":["X"]}`)); err != nil {
		t.Error(err)
	}
	if _, doc := c.sub("ExtensionsConfig", nil); !strings.Contains(doc, "<Name>X</Name>") {
		t.Error("configuration did not change")
	}
	if _, _, err := r.Do(ctx, "PATCH", "/_fabric/vms/vm-01", []byte(`{"nonsense":1}`)); err == nil {
		t.Error("an invalid configuration was accepted")
	}
	data, _, err := r.Do(ctx, "GET", "/_fabric/journal?kind=status", nil)
	var e Entry
	if err != nil || json.Unmarshal(bytes.TrimSpace(data), &e) != nil || e.Kind != Status {
		t.Errorf("journal %s %v", data, err)
	}
	if bytes.Contains(lines.Bytes(), []byte("hunter2")) {
		t.Error("a protected setting is in the journal")
	}
	for line := range bytes.Lines(lines.Bytes()) {
		if err := json.Unmarshal(line, &e); err != nil {
			t.Errorf("%v in %s", err, line)
		}
	}
	for _, s := range []string{"ready", "health=NotReady/x", "extension=a:gone", "handler=A.B:NotReady", "says=x", "status=3", "request=goalstate:9", "converged"} {
		if _, err := ParseCondition(s); err != nil {
			t.Error(err)
		}
	}
	if _, err := ParseCondition("later"); err == nil {
		t.Error("an invalid condition was accepted")
	}
	if err := r.DeleteExtension(ctx, "none", true); err != nil {
		t.Error(err)
	}
}

func TestListenersOfSeveralVMs(t *testing.T) {
	f := New(t)
	a := f.CreateVM("a", Address("127.0.0.1"))
	b := f.CreateVM("b", Address("127.0.0.2"))
	addr, err := f.Listen(Wire, "127.0.0.1:0", b, false)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr.String()+"/machine/?comp=goalstate", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-ms-version", "2012-11-30")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || element(string(body), "ContainerId") != b.ContainerID() || !strings.Contains(string(body), "http://"+addr.String()+"/machine/") {
		t.Errorf("%s %v", body, err)
	}
	if got := element((client{t, a}).goalState(), "ContainerId"); got != a.ContainerID() {
		t.Errorf("vm a got %s", got)
	}
}

func TestBlobTLS(t *testing.T) {
	f := New(t, func(o *Options) { o.BlobURL = "https://{account}.blob.fabric" })
	vm := f.CreateVM("vm")
	code, _, body := (client{t, vm}).do("PUT", vm.StatusURL(), map[string]string{"x-ms-blob-type": "BlockBlob"}, statusBody("1"))
	if code != 201 {
		t.Errorf("%d %s", code, body)
	}
	if pem, err := f.CACertificate(); err != nil || !bytes.Contains(pem, []byte("BEGIN CERTIFICATE")) {
		t.Errorf("%s %v", pem, err)
	}
}

func TestStatusProblems(t *testing.T) {
	f, vm, c := testFabric(t)
	for _, bad := range []string{
		`{"version":1.1}`,
		strings.Replace(string(statusBody("1")), `"1.1"`, `1.1`, 1),
		string(statusBody("1", handlerOf("A.B", "1", "ready?", 0, "see https://x/y?sv=1&sig=abc"))),
	} {
		before := len(f.Journal(Query{Kind: Status, Problems: true}))
		c.putStatus([]byte(bad))
		if after := len(f.Journal(Query{Kind: Status, Problems: true})); after != before+1 {
			t.Errorf("no problem seen in %s", bad)
		}
	}
	_ = vm
}

package status

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/crash"
)

// Protocol of the control socket: one line of JSON as the request, one line as
// the answer, then it is closed. Only root is served.

// Ops of a Request.
const (
	OpRetry  = "retry"  // try Extension again now
	OpCancel = "cancel" // stop what runs for Extension
	OpHold   = "hold"   // start no extension for ForS seconds
	OpResume = "resume" // end a hold
	OpClean  = "clean"  // delete expendable files
	OpReport = "report" // fetch the goal state and report status now
	OpDoctor = "doctor" // probe the platform's services now; Data is a list of findings
)

// HoldMax is the longest hold. To stop extensions for longer, disable them in
// the configuration, where others can see it.
const HoldMax = 7 * 24 * time.Hour

// Request asks the agent to do something.
type Request struct {
	Op        string  `json:"op"`
	Extension string  `json:"extension,omitempty"`
	Config    string  `json:"config,omitempty"` // instance of a multi-config extension
	ForS      float64 `json:"for_s,omitempty"`
	Reason    string  `json:"reason,omitempty"`
	PID       int     `json:"-"` // of the peer, set by Serve, for the log
	UID       int     `json:"-"`
}

// Response is the answer. If OK is false, Error says why, and Code may have a
// code.
type Response struct {
	OK      bool   `json:"ok"`
	Message string `json:"message,omitempty"`
	Error   string `json:"error,omitempty"`
	Code    string `json:"code,omitempty"`
	// Data is the result of requests that ask for data.
	Data json.RawMessage `json:"data,omitempty"`
}

const (
	maxLine    = 64 << 10
	maxClients = 8
	// A handler may take a while to stop.
	sockTimeout = 2 * time.Minute
)

// Serve answers requests until ctx ends. The caller must hold the agent's lock:
// a socket left over from an agent that died is removed. handle is called from
// several goroutines. Errors of single clients are not returned.
func Serve(ctx context.Context, path string, handle func(context.Context, Request) Response) error {
	if err := machine.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	// The mode is set before the socket is bound, so that others can't connect
	// at any time.
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var merr error
		err := rc.Control(func(fd uintptr) { merr = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, merr)
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // ends Accept
	defer stop()

	var wg sync.WaitGroup
	// wait: each client is ended by the context or its own time-out
	defer wg.Wait()
	slots := make(chan struct{}, maxClients)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return c.Close()
		}
		wg.Go(func() {
			// wait: it gives back what was put there for this client
			defer func() { <-slots }()
			defer c.Close() // the answer is written; nothing to save
			defer crash.Guard()
			serveOne(ctx, c, handle)
		})
	}
}

func serveOne(ctx context.Context, c net.Conn, handle func(context.Context, Request) Response) {
	ctx, cancel := context.WithTimeout(ctx, sockTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // ends the read
	defer stop()
	answer := func(r Response) {
		b, err := json.Marshal(r)
		if err == nil {
			_, _ = c.Write(append(b, '\n')) // a client that left does not matter
		}
	}
	cred, err := peer(c)
	if err != nil || cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		answer(Response{Error: "only root may do this", Code: "AZ-CTL-DENIED"})
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second)) // clients send the line at once
	line, err := bufio.NewReader(io.LimitReader(c, maxLine)).ReadBytes('\n')
	var req Request
	if err == nil {
		err = json.Unmarshal(line, &req)
	}
	if err != nil {
		answer(Response{Error: "read request: " + err.Error()})
		return
	}
	req.PID, req.UID = int(cred.Pid), int(cred.Uid)
	answer(handle(ctx, req))
}

func peer(c net.Conn) (*unix.Ucred, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return nil, cerr
	}
	return cred, err
}

// Call sends one request and waits for the answer. The error is about the
// connection; errors of the agent are in the Response.
func Call(ctx context.Context, path string, req Request) (Response, error) {
	var (
		d    net.Dialer
		resp Response
	)
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return resp, fmt.Errorf("connect to the agent: %w", err)
	}
	defer c.Close() // everything is read by then
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := json.Marshal(req)
	if err != nil {
		return resp, fmt.Errorf("connect to the agent: %w", err)
	}
	if _, err := c.Write(append(b, '\n')); err != nil {
		return resp, fmt.Errorf("connect to the agent: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(c, maxLine)).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &resp)
	}
	if err != nil {
		return resp, fmt.Errorf("read answer of the agent: %w", cmpErr(context.Cause(ctx), err))
	}
	return resp, nil
}

// cmpErr returns the first error that is not nil: a cancelled context explains
// a failed read.
func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

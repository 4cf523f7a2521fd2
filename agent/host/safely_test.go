package host

import (
	"errors"
	"strings"
	"testing"
)

func TestSafely(t *testing.T) {
	t.Parallel()
	if err := Safely(func() error { return nil }); err != nil {
		t.Error(err)
	}
	plain := errors.New("plain")
	if err := Safely(func() error { return plain }); !errors.Is(err, plain) {
		t.Error(err)
	}
	err := Safely(func() error {
		var list []int
		return errors.New(string(rune(list[len(list)])))
	})
	p, ok := errors.AsType[*PanicError](err)
	if !ok || p.Code() != "AZ-AGENT-FAULT" || !strings.Contains(p.Stack, "TestSafely") || !strings.HasPrefix(err.Error(), "AZ-AGENT-FAULT: ") {
		t.Errorf("%v", err)
	}
}

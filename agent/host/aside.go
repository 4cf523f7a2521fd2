package host

import (
	"errors"
	"fmt"
	"io/fs"
)

// AsideSuffix is what the name of a file ends in that was set aside.
const AsideSuffix = ".bad"

// An AsideError is a file or directory of the agent's own that could not be
// used and was set aside. Code is AZ-AGENT-STATE.
type AsideError struct {
	Name string
	Err  error // why
}

func (e *AsideError) Error() string {
	return fmt.Sprintf("%s was set aside as %s%s: %v", e.Name, e.Name, AsideSuffix, e.Err)
}
func (e *AsideError) Unwrap() error { return e.Err }

// Code is stable.
func (*AsideError) Code() string { return "AZ-AGENT-STATE" }

// SetAside gives what can't be used another name, so that it is in nobody's way
// and can be looked at. There is one such name for each; an older one goes. The
// error is an AsideError, or says as well why it could not be done.
func (r Root) SetAside(name string, why error) error {
	aside := name + AsideSuffix
	err := r.RemoveAll(aside)
	if err == nil {
		err = r.Rename(name, aside)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return why // somebody was faster
	case err != nil:
		return fmt.Errorf("%w; set aside: %w", why, err)
	}
	return &AsideError{name, why}
}

package host

import (
	"errors"
	"fmt"
	"io/fs"
)

// AsideSuffix is appended to the name of a file that is set aside.
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

// Code returns the error code, which is stable.
func (*AsideError) Code() string { return "AZ-AGENT-STATE" }

// SetAside renames a file or directory that can't be used, so that it is out
// of the way and can be inspected: it gets AsideSuffix appended, and replaces
// an earlier one. The error is an AsideError on success. If the name is gone
// it is why, and if renaming failed it wraps why and the reason.
func (r Root) SetAside(name string, why error) error {
	aside := name + AsideSuffix
	err := r.RemoveAll(aside)
	if err == nil {
		err = r.Rename(name, aside)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return why // moved or removed meanwhile
	case err != nil:
		return fmt.Errorf("%w; set aside: %w", why, err)
	}
	return &AsideError{name, why}
}

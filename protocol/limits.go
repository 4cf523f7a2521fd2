package protocol

// Limits of a goal state, whatever document it comes in. A machine with fifty
// handlers is rare, and one multi-config handler has dozens of extensions at
// most. A document with more handlers is refused rather than cut, because
// handlers that a goal state does not name are deleted; a handler with more
// extensions is Invalid.
const (
	MaxHandlers   = 256
	MaxExtensions = 512 // of one handler
)

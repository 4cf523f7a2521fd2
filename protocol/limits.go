package protocol

// What a goal state may ask for, whatever document it comes in. A machine with
// fifty handlers is rare, and one multi-config handler has dozens of
// extensions at most. A document with more handlers is refused, as what it
// does not name would be deleted; a handler with more extensions is Invalid.
const (
	MaxHandlers   = 256
	MaxExtensions = 512 // of one handler
)

// Package folder reads and writes the directories of handlers safely. A handler
// may have given its directory to a service account, which can put anything
// there at any time. So directories are opened by descriptor without following
// links, and files are read up to a limit and without blocking.
package folder

// Package folder reads and writes the directories of handlers. A handler may
// have given its directory to a service account, which can put anything there
// at any time: so a directory is entered by descriptor, never through a link,
// and a file is read within a limit and without waiting.
package folder

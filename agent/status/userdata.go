package status

import "time"

// UserData is what became of the user data and vendor data. It is absent while
// they are not carried out. The details are in the agent's journal, which only
// root can read.
type UserData struct {
	State    string    `json:"state"` // waiting, running, done, refused, none, left
	Waiting  string    `json:"waiting,omitempty" see:"line"`
	Finished time.Time `json:"finished,omitzero"` // for the first time
	Items    int       `json:"items,omitempty"`
	Done     int       `json:"done,omitempty"`
	Bad      int       `json:"bad,omitempty"` // failed, interrupted, or done with a warning
}

// Values of UserData.State.
const (
	DataWaiting = "waiting" // for the metadata service
	DataRunning = "running"
	DataDone    = "done"
	DataRefused = "refused" // the user's documents have faults
	DataNone    = "none"    // there is nothing to carry out
	DataFailed  = "failed"  // the documents or the state could not be read
	DataLeft    = "left"    // another program provisions
)

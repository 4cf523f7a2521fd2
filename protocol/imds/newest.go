package imds

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
)

// newest is the newest version of the document that this agent has seen
// described. Nothing is read from a newer one that is not in an older, so there
// is no harm in one that this agent does not know.
const newest = "2025-04-07"

// maxVersions bounds the versions that are tried.
const maxVersions = 10

var version = regexp.MustCompile(`^20[0-9]{2}-[0-9]{2}-[0-9]{2}$`)

// Newest fetches the whole instance document in the newest version that the
// service has: that of a later date has more to tell. It gives up after a number
// of attempts in one version; somebody waits for the answer.
func (c *Client) Newest(ctx context.Context, tries int) ([]byte, error) {
	ctx, cancel := c.patient(ctx)
	defer cancel()
	list := append([]string{newest}, versions[:]...)
	for i := 0; i < len(list) && i < maxVersions; i++ {
		resp, err := c.ask(ctx, "instance", list[i], tries)
		if err != nil {
			return nil, err
		}
		if resp.Status != http.StatusBadRequest {
			_, err := parseWhole(resp.Body)
			return body(resp, err)
		}
		list = slices.Concat(list[:i+1], offered(resp.Body, list[:i+1]), list[i+1:])
	}
	return nil, errVersions
}

// offered returns the versions that an answer with status 400 names as the newest
// ones, without those that have been tried.
func offered(doc []byte, tried []string) (out []string) {
	var answer struct {
		Newest []string `json:"newest-versions"`
	}
	if limits.JSON(doc) != nil || json.Unmarshal(doc, &answer) != nil {
		return nil
	}
	for _, v := range answer.Newest {
		if version.MatchString(v) && !slices.Contains(tried, v) {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out[:min(len(out), maxVersions)]
}

package web

import (
	"bytes"
	"net/http"
)

// IsPage reports whether an answer is a page of HTML, by the rules of the
// WHATWG: a proxy or a portal has answered, whatever its status says.
func IsPage(body []byte) bool {
	return http.DetectContentType(bytes.TrimPrefix(body, []byte("\ufeff"))) == "text/html; charset=utf-8"
}

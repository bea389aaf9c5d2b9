// Package media reads content types as the libraries that write them mean them: in any case, with white space anywhere, and with parameters that
// are none.
package media

import "strings"

// Type is a content type in small letters, without its parameters.
func Type(contentType string) string {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

// IsJSON says whether a media type, in small letters, is a name for JSON.
func IsJSON(media string) bool {
	switch media {
	case "application/json", "application/x-json", "text/x-json", "json":
		return true
	}
	return strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json")
}

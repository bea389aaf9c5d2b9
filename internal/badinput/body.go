package badinput

import (
	"bytes"
	"compress/gzip"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

func contentCases() []Case {
	content := func(contentType, encoding, body string) amqp.Publishing {
		return amqp.Publishing{Type: "Order", ContentType: contentType, ContentEncoding: encoding, Body: []byte(body)}
	}
	const good = `{"ID":7}`
	packed := gzipped(good)
	return []Case{
		{Name: "13 content type missing", Message: content("", "", good), Want: Handled},
		{Name: "13 content type with parameter", Message: content("application/json; charset=utf-8", "", good), Want: Handled},
		{Name: "13 content type in capitals", Message: content("Application/JSON", "", good), Want: Handled},
		{Name: "13 content type by header", Message: order1(prefixed("ContentType"), "application/json"), Want: Handled},
		{Name: "13 json latin1", Message: content("application/json; charset=latin1", "", "{\"ID\":7,\"Name\":\"\xfc\"}"), Want: Parked, Reason: "unsupported-content"},
		{Name: "13 json utf-16", Message: content("application/json; charset=utf-16", "", good), Want: Parked, Reason: "unsupported-content"},
		{Name: "13 java", Message: content("application/x-java-serialized-object", "", good), Want: Parked, Reason: "unsupported-content"},
		{Name: "13 any", Message: content("*/*", "", good), Want: Parked, Reason: "unsupported-content"},
		{Name: "13 not a media type", Message: content("a b;;", "", good), Want: Parked, Reason: "unsupported-content"},
		{Name: "13 bytes for a struct", Message: content("application/octet-stream", "", packed), Want: Parked, Reason: "bad-payload"},
		{Name: "14 gzip but plain", Message: content("", "gzip", good), Want: Parked, Reason: "bad-payload"},
		{Name: "14 plain but gzip", Message: content("", "", packed), Want: Parked, Reason: "bad-payload"},
		{Name: "14 gzip", Message: content("", "GZIP", packed), Want: Handled},
		{Name: "14 gzip as Spring writes it", Message: content("", "gzip, utf-8", packed), Want: Handled},
		{Name: "14 gzip as older Spring writes it", Message: content("", "gzip:utf-8", packed), Want: Handled},
		{Name: "35 gzip cut", Message: content("", "gzip", packed[:len(packed)-4]), Want: Parked, Reason: "bad-payload"},
		{Name: "35 gzip with a wrong checksum", Message: content("", "gzip", packed[:len(packed)-8]+"abcd"+packed[len(packed)-4:]), Want: Parked, Reason: "bad-payload"},
		{Name: "35 gzip and more", Message: content("", "gzip", packed+"x"), Want: Parked, Reason: "bad-payload"},
		{Name: "35 two gzip members", Message: content("", "gzip", packed+packed), Want: Parked, Reason: "bad-payload"},
		{Name: "36 gzip bomb", Message: content("", "gzip", gzipped(strings.Repeat("0", 64<<20))), Want: Parked, Reason: "too-large"},
		{Name: "14 br", Message: content("", "br", good), Want: Parked, Reason: "unsupported-content"},
		{Name: "14 twice", Message: content("", "gzip,gzip", packed), Want: Parked, Reason: "unsupported-content"},
		{Name: "14 utf-8", Message: content("", "UTF-8", good), Want: Handled},
	}
}

func gzipped(s string) string {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, _ = w.Write([]byte(s)) // a buffer takes everything
	_ = w.Close()
	return buf.String()
}

func bodyCases() []Case {
	var cases []Case
	for name, body := range map[string]string{
		"29 empty": "", "30 no json": "hello", "30 trailing value": `{"ID":7} {"ID":8}`, "30 trailing brace": `{"ID":7}}`,
		"30 trailing bracket": `{"ID":7}]`, "30 cut": `{"ID":`, "30 two boms": "\xef\xbb\xbf\xef\xbb\xbf" + `{"ID":7}`, "30 nul": "\x00", "31 null": "null",
		"31 null in space": " null\n", "31 array": "[]", "31 text": `"x"`, "31 number": "42", "31 true": "true",
		"32 not utf-8": "{\"ID\":7,\"Name\":\"\xff\"}", "33 1e999": `{"ID":1e999}`, "33 2^70": `{"ID":1180591620717411303424}`,
		"33 fraction": `{"ID":1.5}`, "33 NaN": `{"ID":NaN}`, "30 deep": strings.Repeat("[", 20000),
	} {
		cases = append(cases,
			Case{Name: name, Message: plain(body), Want: Parked, Reason: "bad-payload"},
			Case{Name: name + " strict", Message: plain(body), Want: Parked, Reason: "bad-payload", Tight: true})
	}
	return append(cases,
		Case{Name: "29 empty raw", Message: amqp.Publishing{Type: "Raw"}, Want: Handled},
		Case{Name: "29 empty bytes", Message: amqp.Publishing{Type: "Bytes", ContentType: "application/octet-stream"}, Want: Handled},
		Case{Name: "33 minus zero is zero", Message: plain(`{"ID":-0}`), Want: Handled},
		Case{Name: "11 other shape", Message: plain(`{"Name":"x"}`), Want: Parked, Reason: "bad-payload", Tight: true},
		Case{Name: "11 other shape, lenient", Message: plain(`{"Name":"x"}`), Want: Handled},
		Case{Name: "11 not valid", Message: typed("Checked", `{"ID":-4}`, nil), Want: Parked, Reason: "bad-payload"},
		Case{Name: "34 too large", Message: plain(`{"ID":7}` + strings.Repeat(" ", MaxBody-4)), Want: Parked, Reason: "too-large", Tight: true},
		Case{Name: "34 just fits", Message: plain(`{"ID":7}` + strings.Repeat(" ", MaxBody-8)), Want: Handled, Tight: true})
}

package contract_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/harebus/harebus/contract"
)

// document is an AsyncAPI document with one operation, whose message has a payload. Other schemas are components.
func document(action, payload, components string) string {
	if components == "" {
		components = "{}"
	}
	return fmt.Sprintf(`{
		"asyncapi": "3.1.0", "info": {"title": "t", "version": "1"}, "defaultContentType": "application/json",
		"channels": {"orders": {"address": "orders", "messages": {"PlaceOrder": {"$ref": "#/components/messages/PlaceOrder"}},
			"bindings": {"amqp": {"is": "queue"}}}},
		"operations": {"one": {"action": %q, "channel": {"$ref": "#/channels/orders"}, "messages": [{"$ref": "#/channels/orders/messages/PlaceOrder"}]}},
		"components": {"messages": {"PlaceOrder": {"name": "PlaceOrder", "payload": %s}}, "schemas": %s}
	}`, action, payload, components)
}

func read(t *testing.T, text string) *contract.Document {
	t.Helper()
	d, err := contract.Read(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return d
}

// diff returns the changes as texts; ! stands before those that break others.
func diff(t *testing.T, before, after string) []string {
	t.Helper()
	changes, err := contract.Diff(read(t, before), read(t, after))
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, c := range changes {
		text := c.Field + ": " + c.Text
		if c.Field == "" {
			text = c.String()
		}
		if c.Breaking {
			text = "!" + text
		}
		texts = append(texts, text)
	}
	return texts
}

// TestDiffSchemas: what breaks a sender depends on the direction. Each row is also compared the other way round in time.
func TestDiffSchemas(t *testing.T) {
	t.Parallel()
	object := func(properties, required string) string {
		return fmt.Sprintf(`{"type": "object", "properties": {%s}, "required": [%s]}`, properties, required)
	}
	id, both := `"id": {"type": "string"}`, `"id": {"type": "string"}, "note": {"type": "string"}`
	const tree = `{"Tree": {"type": "object", "properties": {"leaf": {"type": %q}, "children": {"type": ["array", "null"], "items": {"$ref": "#/components/schemas/Tree"}}}}}`
	for name, row := range map[string]struct {
		before, after           string
		old, new                string // components
		received, sent          bool   // the change breaks
		receivedBack, sentBack  bool   // the change from after to before does
		text, textBack, changed string // a part of what is printed
	}{
		"the same": {before: object(both, `"id"`), after: object(both, `"id"`)},
		"a field added, optional": {
			before: object(id, `"id"`), after: object(both, `"id"`),
			text: "/payload/note: field none → there", textBack: "/payload/note: field there → none",
		},
		"a field added, required": {
			before: object(id, `"id"`), after: object(both, `"id", "note"`), received: true, sentBack: true,
			text: "/payload/note: required no → yes", textBack: "/payload/note: required yes → no",
		},
		"made required": {
			before: object(both, `"id"`), after: object(both, `"id", "note"`), received: true, sentBack: true,
			text: "/payload/note: required no → yes", textBack: "/payload/note: required yes → no",
		},
		"a type changed": {
			before: `{"type": "string"}`, after: `{"type": "boolean"}`, received: true, sent: true, receivedBack: true, sentBack: true,
			text: "/payload: type string → boolean",
		},
		"a type widened": {
			before: `{"type": "integer"}`, after: `{"type": "number"}`, sent: true, receivedBack: true,
			text: "/payload: type integer → number", textBack: "/payload: type number → integer",
		},
		"null allowed": {
			before: `{"type": "string"}`, after: `{"type": ["string", "null"]}`, sent: true, receivedBack: true,
			text: "/payload: type string → null or string",
		},
		"null allowed beside a reference": {
			before: `{"$ref": "#/components/schemas/A"}`, after: `{"anyOf": [{"$ref": "#/components/schemas/A"}, {"type": "null"}]}`,
			old: `{"A": {"type": "string"}}`, new: `{"A": {"type": "string"}}`, sent: true, receivedBack: true, text: "type string → null or string",
		},
		"a format changed": {
			before: `{"type": "string", "format": "date-time"}`, after: `{"type": "string", "format": "date"}`, received: true, sent: true, receivedBack: true, sentBack: true,
			text: `format "date-time" → "date"`,
		},
		"a format added": {before: `{"type": "string"}`, after: `{"type": "string", "format": "date"}`, received: true, sentBack: true, text: `format none → "date"`},
		"an enum narrowed": {
			before: `{"type": "string", "enum": ["a", "b"]}`, after: `{"type": "string", "enum": ["b"]}`, received: true, sentBack: true,
			text: `enum ["a","b"] → ["b"]`,
		},
		"an enum added":        {before: `{"type": "string"}`, after: `{"type": "string", "enum": ["b"]}`, received: true, sentBack: true, text: `enum none → ["b"]`},
		"a const for an enum":  {before: `{"type": "string", "enum": ["b"]}`, after: `{"type": "string", "const": "b"}`},
		"a bound":              {before: `{"type": "integer", "minimum": 1}`, after: `{"type": "integer", "minimum": 2}`, received: true, sentBack: true, text: "minimum 1 → 2"},
		"an upper bound":       {before: `{"type": "string", "maxLength": 9}`, after: `{"type": "string", "maxLength": 8}`, received: true, sentBack: true, text: "maxLength 9 → 8"},
		"a bound that is none": {before: `{"type": "string"}`, after: `{"type": "string", "minLength": 0}`},
		"a bound of other types": {
			before: `{"anyOf": [{"type": "null"}, {"type": "string"}]}`, after: `{"type": ["null", "string"], "minLength": 1}`, received: true, sentBack: true,
			text: "minLength none → 1",
		},
		"a bound without its number": {before: `{"type": "number", "minimum": 1}`, after: `{"type": "number", "exclusiveMinimum": 1}`, received: true, sentBack: true, text: "exclusiveMinimum none → 1"},
		"one bound of two keywords":  {before: `{"type": "integer", "exclusiveMinimum": 0}`, after: `{"type": "integer", "minimum": 1}`},
		"an upper one":               {before: `{"type": "integer", "exclusiveMaximum": 10}`, after: `{"type": "integer", "maximum": 9.5}`},
		"a wider bound":              {before: `{"type": "number", "exclusiveMinimum": 0}`, after: `{"type": "number", "minimum": 0}`, sent: true, receivedBack: true, textBack: "exclusiveMinimum none → 0"},
		"a negative bound":           {before: `{"type": "integer", "exclusiveMinimum": -1.5}`, after: `{"type": "integer", "minimum": -1}`},
		"a second bound":             {before: `{"type": "number", "minimum": 5}`, after: `{"type": "number", "minimum": 5, "exclusiveMinimum": 4}`},
		"an enum without a type":     {before: `{"type": "string", "enum": ["a", "b"]}`, after: `{"enum": ["b", "a"]}`},
		"an enum of two types":       {before: `{"type": ["string", "null"], "enum": ["a"]}`, after: `{"const": "a"}`},
		"an enum of numbers":         {before: `{"type": "integer", "enum": [1, 2]}`, after: `{"enum": [2.0, 1]}`},
		"an enum of anything":        {before: `{"enum": [1, "a", null, true]}`, after: `{"enum": [1, "a", null]}`, received: true, sentBack: true, text: "type boolean or integer"},
		"a title in a part":          {before: `{"not": {"type": "string", "title": "a"}}`, after: `{"not": {"type": "string", "description": "b", "x-more": 1}}`},
		"a field that is title":      {before: `{"not": {"properties": {"title": {"type": "string"}}}}`, after: `{"not": {"properties": {"description": {"type": "string"}}}}`, received: true, sent: true, receivedBack: true, sentBack: true, text: "not"},
		"a value that has a title":   {before: `{"not": {"const": {"title": "a"}}}`, after: `{"not": {"const": {"title": "b"}}}`, received: true, sent: true, receivedBack: true, sentBack: true, text: "not"},
		"an order in a part":         {before: `{"not": {"required": ["a", "b"]}}`, after: `{"not": {"required": ["b", "a"]}}`},
		"a pattern":                  {before: `{"type": "string", "pattern": "a"}`, after: `{"type": "string", "pattern": "b"}`, received: true, sent: true, receivedBack: true, sentBack: true, text: `pattern "a" → "b"`},
		"a title":                    {before: `{"type": "string", "title": "a"}`, after: `{"type": "string", "title": "b", "x-more": 1}`},
		"anything": {
			before: `{}`, after: `{"type": "string"}`, received: true, sentBack: true, text: "type any → string",
		},
		"nothing allowed": {before: `true`, after: `false`, received: true, sentBack: true, text: "type any → none"},
		"elements": {
			before: `{"type": "array", "items": {"type": "integer"}}`, after: `{"type": "array", "items": {"type": "string"}}`,
			received: true, sent: true, receivedBack: true, sentBack: true, text: "/payload/*: type integer → string",
		},
		"values of a map": {
			before: `{"type": "object", "additionalProperties": {"type": "number"}}`, after: `{"type": "object", "additionalProperties": {"type": "integer"}}`,
			received: true, sentBack: true, text: "/payload/*: type number → integer",
		},
		"a map that becomes a struct": {
			before: `{"type": "object", "additionalProperties": {"type": "string"}}`, after: object(`"a/b": {"type": "boolean"}`, ""),
			received: true, sent: true, receivedBack: true, sentBack: true, text: "/payload/a~1b: type string → boolean",
		},
		"a schema behind a reference": {
			before: `{"$ref": "#/components/schemas/Tree"}`, after: `{"$ref": "#/components/schemas/Tree"}`,
			old: fmt.Sprintf(tree, "string"), new: fmt.Sprintf(tree, "number"), received: true, sent: true, receivedBack: true, sentBack: true,
			text: "/payload/leaf: type string → number",
		},
		"the parts of allOf": {
			before: `{"allOf": [{"$ref": "#/components/schemas/A"}, ` + object(`"b": {"type": "string"}`, `"b"`) + `]}`, after: object(`"a": {"type": "string"}, "b": {"type": "string"}`, `"b"`),
			old: `{"A": ` + object(`"a": {"type": "string"}`, `"a"`) + `}`, sent: true, receivedBack: true, text: "/payload/a: required yes → no",
		},
		"a reference in what is compared as a whole": {
			before: `{"not": {"$ref": "#/components/schemas/A"}}`, after: `{"not": {"$ref": "#/components/schemas/A"}}`,
			old: `{"A": {"type": "string"}}`, new: `{"A": {"type": "number"}}`, received: true, sent: true, receivedBack: true, sentBack: true, text: "not",
		},
		"the order in a union": {
			before: `{"oneOf": [{"type": "string"}, {"type": "object", "properties": {"a": {"type": "string"}}}]}`,
			after:  `{"oneOf": [{"type": "object", "properties": {"a": {"type": "string"}}}, {"type": "string"}]}`,
		},
		"a keyword that is not known": {
			before: `{"type": "object", "dependentRequired": {"a": ["b"]}}`, after: `{"type": "object", "dependentRequired": {"a": ["c"]}}`,
			received: true, sent: true, receivedBack: true, sentBack: true, text: "dependentRequired",
		},
		"elements without a type": {
			before: `{"items": {"type": "integer"}}`, after: `{"items": {"type": "string"}}`,
			received: true, sent: true, receivedBack: true, sentBack: true, text: "/payload/*: type integer → string",
		},
		"values of a map without a type": {
			before: `{"additionalProperties": {"type": "number"}}`, after: `{"additionalProperties": {"type": "integer"}}`,
			received: true, sentBack: true, text: "/payload/*: type number → integer",
		},
		"false that refuses": {
			before: `{"type": "array"}`, after: `{"type": "array", "contains": false}`, received: true, sentBack: true, text: "contains none → false",
		},
		"large numbers": {
			before: `{"type": "integer", "enum": [9007199254740993]}`, after: `{"type": "integer", "enum": [9007199254740992]}`,
			received: true, sent: true, receivedBack: true, sentBack: true, text: "enum",
		},
		"one number": {before: `{"type": "number", "minimum": 1, "enum": [10]}`, after: `{"type": "number", "minimum": 1.0, "enum": [1e1]}`},
		"a bound that no float has": {
			before: `{"type": "number", "maximum": 1e400}`, after: `{"type": "number", "maximum": 1e399}`, received: true, sentBack: true, text: "maximum 1e400 → 1e399",
		},
		"base64": {
			before: `{"type": "string", "contentEncoding": "base64"}`, after: `{"type": "string"}`, sent: true, receivedBack: true, text: "contentEncoding",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check := func(action, before, old, after, next, text string, breaks bool) {
				t.Helper()
				found := diff(t, document(action, before, old), document(action, after, next))
				broken := slices.ContainsFunc(found, func(one string) bool { return strings.HasPrefix(one, "!") })
				if broken != breaks {
					t.Errorf("%s: breaking is %v, want %v: %q", action, broken, breaks, found)
				}
				if !strings.Contains(strings.Join(found, "\n"), text) {
					t.Errorf("%s: %q does not contain %q", action, found, text)
				}
				if text == "" && len(found) > 0 && row.textBack == "" && row.text == "" {
					t.Errorf("%s: %q", action, found)
				}
			}
			check("receive", row.before, row.old, row.after, row.new, row.text, row.received)
			check("send", row.before, row.old, row.after, row.new, row.text, row.sent)
			check("receive", row.after, row.new, row.before, row.old, row.textBack, row.receivedBack)
			check("send", row.after, row.new, row.before, row.old, row.textBack, row.sentBack)
		})
	}
}

// TestDiffClosed: a receiver that refuses unknown fields breaks those who still send one; a sender breaks nobody by a new one.
func TestDiffClosed(t *testing.T) {
	t.Parallel()
	closed := func(properties string) string {
		return `{"type": "object", "properties": {` + properties + `}, "additionalProperties": false}`
	}
	more, less := closed(`"a": {"type": "string"}, "b": {"type": "string"}`), closed(`"a": {"type": "string"}`)
	if found := diff(t, document("receive", more, ""), document("receive", less, "")); len(found) == 0 || found[0] != "!/payload/b: additionalProperties true → false" {
		t.Errorf("%q", found)
	}
	for _, found := range [][]string{
		diff(t, document("receive", less, ""), document("receive", more, "")),
		diff(t, document("send", less, ""), document("send", more, "")), diff(t, document("send", more, ""), document("send", less, "")),
	} {
		if len(found) == 0 || strings.HasPrefix(found[0], "!") {
			t.Errorf("%q", found)
		}
	}
}

// TestDiffOperations: what is gone or has moved breaks both sides; what is new breaks nobody.
func TestDiffOperations(t *testing.T) {
	t.Parallel()
	const topical = `{"asyncapi": "3.0.0", "channels": {"c": {"address": "order.placed", "messages": {"Placed": {"contentType": "application/json"}},
		"bindings": {"amqp": {"is": "routingKey", "exchange": {"name": "PikaBusTopic"}}}}},
		"operations": {"x": {"action": "ACTION", "channel": {"$ref": "#/channels/c"}}}}`
	for _, action := range []string{"receive", "send"} {
		before := strings.ReplaceAll(topical, "ACTION", action)
		moved := "gone; the message is now in "
		for name, row := range map[string]struct{ old, new, want string }{
			"another topic":        {"order.placed", "order.taken", moved + `topic "order.taken" of exchange "PikaBusTopic"`},
			"another exchange":     {"PikaBusTopic", "events", moved + `topic "order.placed" of exchange "events"`},
			"another type":         {`{"Placed"`, `{"Taken"`, `order.placed" of exchange "PikaBusTopic": gone`},
			"another content type": {"application/json", "text/plain", `content type "application/json" → "text/plain"`},
			"another direction":    {action, map[string]string{"receive": "send", "send": "receive"}[action], `order.placed" of exchange "PikaBusTopic": gone`},
			"a queue":              {"routingKey", "queue", moved + `queue "order.placed"`},
		} {
			found := diff(t, before, strings.ReplaceAll(before, row.old, row.new))
			if len(found) == 0 || !strings.HasPrefix(found[0], "!") || !strings.Contains(found[0], row.want) {
				t.Errorf("%s, %s: %q, want %q", action, name, found, row.want)
			}
		}
		none := `{"asyncapi": "3.0.0"}`
		if found := diff(t, none, before); len(found) != 1 || found[0] != action+` "Placed", topic "order.placed" of exchange "PikaBusTopic": added` {
			t.Errorf("%q", found)
		}
		if found := diff(t, before, none); len(found) != 1 || !strings.HasPrefix(found[0], "!") {
			t.Errorf("%q", found)
		}
	}
}

// TestDiffBindings: a queue that is bound to other exchanges, or to less, breaks those who send to it.
func TestDiffBindings(t *testing.T) {
	t.Parallel()
	bound := func(extension string) string {
		return strings.Replace(document("receive", "{}", ""), `"address": "orders",`, `"address": "orders", `+extension, 1)
	}
	events := func(topics string) string {
		return bound(`"x-harebus": {"exchange": "PikaBusDirect", "topicExchange": "PikaBusTopic", "topics": [` + topics + `]},`)
	}
	for name, row := range map[string]struct{ before, after, want string }{
		"the same":              {events(`"a.b"`), events(`"a.b"`), ``},
		"not said before":       {bound(""), events(`"a.b"`), ``},
		"not said any more":     {events(`"a.b"`), bound(""), ``},
		"exchange of commands":  {bound(`"x-harebus": {"exchange": "PikaBusDirect"},`), bound(`"x-harebus": {"exchange": "amq.direct"},`), `!queue "orders": exchange of commands "PikaBusDirect" → "amq.direct"`},
		"exchange of events":    {events(`"a"`), strings.Replace(events(`"a"`), "PikaBusTopic", "amq.topic", 1), `!queue "orders": exchange of events "PikaBusTopic" → "amq.topic"`},
		"a topic lost":          {events(`"a.b", "c"`), events(`"c"`), `!queue "orders": topic "a.b" is not bound any more`},
		"a topic added":         {events(`"c"`), events(`"c", "d"`), `queue "orders": topic "d" is bound`},
		"a wider topic":         {events(`"a.b", "a.c.d"`), events(`"a.#"`), `queue "orders": topic "a.#" is bound`},
		"one word":              {events(`"a.b"`), events(`"a.*"`), `queue "orders": topic "a.*" is bound`},
		"one word for two":      {events(`"a.b.c"`), events(`"a.*"`), `!queue "orders": topic "a.b.c" is not bound any more` + "\n" + `queue "orders": topic "a.*" is bound`},
		"less than any":         {events(`"#"`), events(`"#.a"`), `!queue "orders": topic "#" is not bound any more`},
		"any number in between": {events(`"a.*.b", "a.b"`), events(`"a.#.b"`), `queue "orders": topic "a.#.b" is bound`},
		"many of any number":    {events(`"` + strings.Repeat("#.", 120) + `a"`), events(`"` + strings.Repeat("#.", 120) + `b"`), `!queue "orders": topic "` + strings.Repeat("#.", 120) + `a" is not bound any more` + "\n" + `queue "orders": topic "` + strings.Repeat("#.", 120) + `b" is bound`},
	} {
		if found := strings.Join(diff(t, row.before, row.after), "\n"); found != row.want {
			t.Errorf("%s: %q, want %q", name, found, row.want)
		}
	}
	for _, bad := range []string{`"x-harebus": 7,`, `"x-harebus": {"topics": [1]},`} {
		if _, err := contract.Read(strings.NewReader(bound(bad))); err == nil || !strings.Contains(err.Error(), "x-harebus") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestDiffOfManyUses: one change of a type that is used in many places is not listed without end.
func TestDiffOfManyUses(t *testing.T) {
	t.Parallel()
	schemas := func(leaf string) string {
		all := []string{`"S0": {"type": "` + leaf + `"}`}
		for i := range 60 {
			all = append(all, fmt.Sprintf(`"S%d": {"type": "object", "properties": {"a": {"$ref": "#/components/schemas/S%d"}, "b": {"$ref": "#/components/schemas/S%d"}}}`, i+1, i, i))
		}
		return "{" + strings.Join(all, ",") + "}"
	}
	const top = `{"$ref": "#/components/schemas/S60"}`
	found := diff(t, document("receive", top, schemas("string")), document("receive", top, schemas("boolean")))
	if len(found) == 0 || len(found) > 202 || !strings.HasPrefix(found[0], "!") || !strings.Contains(strings.Join(found, "\n"), "more changes") {
		t.Errorf("%d changes", len(found))
	}
}

// TestReadRefuses: what is no AsyncAPI document of version 3 is refused with what to do.
func TestReadRefuses(t *testing.T) {
	t.Parallel()
	const operation = `{"asyncapi": "3.0.0", "channels": {"c": {"address": "q", "messages": {"M": %s}}}, "operations": {"x": %s}}`
	receive := `{"action": "receive", "channel": {"$ref": "#/channels/c"}}`
	for name, row := range map[string]struct{ text, want string }{
		"nothing":               {"", "it is not JSON"},
		"YAML":                  {"# orders\n\nasyncapi: 3.0.0", "it is YAML, and only JSON is read: convert it first, with yq -o=json FILE"},
		"YAML of two documents": {"---\nasyncapi: 3.0.0\n---\n", "it is YAML"},
		"YAML in braces":        {"{asyncapi: 3.0.0}", "it is YAML"},
		"YAML in quotes":        {"\uFEFF'asyncapi': 3.0.0", "it is YAML"},
		"text":                  {"all of it: asyncapi", "it is not JSON"},
		"a byte order mark":     {"\uFEFF" + `{"asyncapi": "2.6.0"}`, `it is AsyncAPI "2.6.0"`},
		"half":                  {`{"asyncapi": "3.0.0"`, "it is not JSON"},
		"two":                   {`{"asyncapi": "3.0.0"} {}`, "something follows"},
		"a list":                {`[]`, "it is no AsyncAPI document"},
		"null":                  {`null`, "it is no AsyncAPI document"},
		"OpenAPI":               {`{"openapi": "3.0.0"}`, "it is no AsyncAPI document"},
		"a number":              {`{"asyncapi": 3}`, "it is no AsyncAPI document"},
		"version 2":             {`{"asyncapi": "2.6.0"}`, `it is AsyncAPI "2.6.0", and only version 3 is read`},
		"operations":            {`{"asyncapi": "3.0.0", "operations": []}`, "operations is no object"},
		"an operation":          {fmt.Sprintf(operation, "{}", "7"), `operation "x": it is no object`},
		"an action":             {fmt.Sprintf(operation, "{}", `{"action": "publish"}`), "neither receive nor send"},
		"no channel":            {fmt.Sprintf(operation, "{}", `{"action": "send"}`), "no reference to a channel"},
		"a lost channel":        {fmt.Sprintf(operation, "{}", `{"action": "send", "channel": {"$ref": "#/channels/d"}}`), `"#/channels/d" leads nowhere`},
		"another file":          {fmt.Sprintf(operation, `{"$ref": "./m.json"}`, receive), `"./m.json" leads out of the document`},
		"a circle":              {fmt.Sprintf(operation, `{"$ref": "#/channels/c/messages/M"}`, receive), "go round in circles"},
		"traits":                {fmt.Sprintf(operation, `{"traits": []}`, receive), "it has traits"},
		"a message":             {fmt.Sprintf(operation, "[]", receive), `message "M": it is no object`},
		"messages":              {fmt.Sprintf(operation, "{}", `{"action": "send", "channel": {"$ref": "#/channels/c"}, "messages": [1]}`), "messages[0] is no reference"},
		"Avro":                  {fmt.Sprintf(operation, `{"payload": {"$ref": "#/p"}}`, receive)[:1] + `"p": {"schemaFormat": "application/vnd.apache.avro;version=1.9.0", "schema": {}}, ` + fmt.Sprintf(operation, `{"payload": {"$ref": "#/p"}}`, receive)[1:], "avro;version=1.9.0\" is not read"},
		"Avro in headers":       {fmt.Sprintf(operation, `{"headers": {"schemaFormat": "application/vnd.apache.avro", "schema": {}}}`, receive), "avro\" is not read"},
		"a reply":               {fmt.Sprintf(operation, "{}", `{"action": "receive", "channel": {"$ref": "#/channels/c"}, "reply": {}}`), "it has a reply"},
		"an operation twice":    {`{"asyncapi": "3.0.0", "channels": {"c": {"messages": {"M": {}, "N": {"name": "M", "payload": true}}}}, "operations": {"x": ` + receive + `}}`, "two operations with different messages are"},
		"a reference in a list": {fmt.Sprintf(operation, `{"$ref": "#/operations/x/action/0"}`, receive), "leads nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := contract.Read(strings.NewReader(row.text)); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("%v, want %q", err, row.want)
			}
		})
	}
	if _, err := contract.Read(strings.NewReader(`{"asyncapi": "3.0.0", "x": "` + strings.Repeat("a", 17<<20) + `"}`)); err == nil || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("too large: %v", err)
	}
}

// TestDiffRefuses: schemas that cannot be read are an error, not a document without changes.
func TestDiffRefuses(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{`{"$ref": "#/nowhere"}`, `{"$ref": "other.json#/x"}`, `7`, `{"type": "array", "items": {"$ref": "#/components/schemas/Self"}}`, `{"allOf": [{"$ref": "#/nowhere"}]}`} {
		old, bad := read(t, document("send", `{"type": "array", "items": {}}`, "")), read(t, document("send", payload, `{"Self": {"$ref": "#/components/schemas/Self"}}`))
		if changes, err := contract.Diff(old, bad); err == nil {
			t.Errorf("%s: %v", payload, changes)
		}
	}
}

// doubled is components of which each is a union, or a sum, of the one before with itself.
func doubled(keyword, first string, n int) string {
	all := []string{`"A0": ` + first}
	for i := range n {
		all = append(all, fmt.Sprintf(`"A%d": {%q: [{"$ref": "#/components/schemas/A%d"}, {"$ref": "#/components/schemas/A%d"}]}`, i+1, keyword, i, i))
	}
	return "{" + strings.Join(all, ",") + "}"
}

// ring is a circle of objects.
func ring(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"A%d": {"type": "object", "properties": {"a": {"$ref": "#/components/schemas/A%d"}}}`, i, (i+1)%n))
	}
	return "{" + strings.Join(all, ",") + "}"
}

const cyclicUnion = `{"A0": {"anyOf": [{"$ref": "#/components/schemas/A1"}, {"type": "null"}]}, "A1": {"oneOf": [{"$ref": "#/components/schemas/A0"}, {"type": "string"}]}}`

// TestDiffIsBounded: unions that are parts of themselves, or double with each step, neither end the process nor take long.
func TestDiffIsBounded(t *testing.T) {
	t.Parallel()
	at := func(n int) string { return fmt.Sprintf(`{"$ref": "#/components/schemas/A%d"}`, n) }
	if found := diff(t, document("receive", at(0), cyclicUnion), document("receive", `{"type": ["string", "null"]}`, "")); len(found) > 0 {
		t.Errorf("%q", found)
	}
	if found := diff(t, document("receive", at(1), cyclicUnion), document("receive", `{"type": "string"}`, "")); len(found) != 1 || !strings.Contains(found[0], "type null or string → string") {
		t.Errorf("%q", found)
	}
	if found := diff(t, document("receive", at(40), doubled("anyOf", `{"type": "string"}`, 40)), document("receive", `{"type": "string"}`, "")); len(found) > 0 {
		t.Errorf("%q", found)
	}
	needs := `{"type": "object", "required": ["a"]}`
	if found := diff(t, document("receive", at(40), doubled("allOf", needs, 40)), document("receive", needs, "")); len(found) > 0 {
		t.Errorf("%q", found)
	}
	old, large := read(t, document("receive", `{}`, "")), read(t, document("receive", `{"anyOf": [`+strings.Repeat(`{"type": "string"},`, 1000)+`{}]}`, ""))
	if _, err := contract.Diff(large, old); err == nil || !strings.Contains(err.Error(), "more than 1000 schemas") {
		t.Errorf("%v", err)
	}
	one, other := read(t, document("receive", at(0), ring(32))), read(t, document("receive", at(0), ring(33)))
	if _, err := contract.Diff(one, other); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("%v", err)
	}
}

// FuzzDiff: no document makes Read or Diff panic or hang, and a document has no changes against itself.
func FuzzDiff(f *testing.F) {
	f.Add(document("receive", `{"allOf": [{"$ref": "#/components/schemas/A"}]}`, `{"A": {"type": ["object", "null"], "properties": {"a": {"$ref": "#/components/schemas/A"}}, "required": ["a"]}}`))
	f.Add(document("send", `{"anyOf": [{"enum": [1, "a"]}, {"type": "array", "items": [{"not": {}}]}, true]}`, ""))
	f.Add(document("receive", `{"type": "integer", "minimum": 1e400}`, ""))
	f.Add(document("receive", `{"$ref": "#/components/schemas/A0"}`, cyclicUnion))
	f.Add(document("send", `{"$ref": "#/components/schemas/A30"}`, doubled("anyOf", `{"type": "string"}`, 30)))
	f.Fuzz(func(t *testing.T, text string) {
		a, err := contract.Read(strings.NewReader(text))
		if err != nil {
			return
		}
		b := read(t, text)
		changes, err := contract.Diff(a, b)
		if err == nil && slices.ContainsFunc(changes, func(c contract.Change) bool { return c.Breaking }) {
			t.Errorf("a document has changes against itself: %v", changes)
		}
	})
}

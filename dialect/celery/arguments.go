package celery

import (
	"bytes"
	"compress/bzip2"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/harebus/harebus/dialect"
	"github.com/harebus/harebus/internal/field"
	"github.com/harebus/harebus/internal/jsontext"
	"github.com/harebus/harebus/internal/media"
)

// largest is how much a compressed body may become, as by default for bodies of harebus.
const largest = 16 << 20

// plain is the body as JSON.
func plain(w *dialect.Wire) (body []byte, err error) {
	if kind := media.Type(w.Properties.ContentType); kind != "" && !media.IsJSON(kind) {
		return nil, fmt.Errorf("its arguments are serialized as %.80q, and harebus reads JSON only: set task_serializer to \"json\"", kind)
	}
	body = w.Body
	switch by := field.Said(w.Headers[compression]); by {
	case "":
		if strange := w.Headers[compression]; strange != nil && strange != "" {
			return body, fmt.Errorf("its header compression is %.80q, and no text", fmt.Sprint(strange))
		}
		err = jsontext.Encoded(body, w.Properties.ContentEncoding)
	case "application/x-gzip": // Celery calls zlib so
		body, err = inflated(zlib.NewReader(bytes.NewReader(body)))
	case "application/x-bz2":
		body, err = inflated(bzip2.NewReader(bytes.NewReader(body)), nil)
	default:
		err = fmt.Errorf("it is compressed as %.80q, and harebus reads gzip and bzip2 only: set task_compression", by)
	}
	return body, err
}

func inflated(r io.Reader, err error) ([]byte, error) {
	var body []byte
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(r, largest+1))
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("it cannot be decompressed: %w", err)
	case len(body) > largest:
		return nil, fmt.Errorf("it has more than %d bytes when it is decompressed", largest)
	}
	return body, nil
}

// none is what follows a task: nothing.
const none = `{"callbacks": null, "errbacks": null, "chain": null, "chord": null}`

// payload makes the payload of the arguments of a task: [[positional], {by name}, {what follows}].
func (d *Dialect) payload(name string, known bool, body []byte) ([]byte, error) {
	var parts [3][]byte
	n := 0
	whole := each(body, func(key, value []byte) {
		if n < len(parts) && key == nil {
			parts[n] = value
		}
		n++
	})
	args, kwargs, rest := parts[0], parts[1], parts[2]
	simple := string(rest) == none
	if !whole || n != len(parts) || !simple && !is('{', rest) && string(rest) != "null" {
		return nil, errBody
	}
	if !simple {
		if err := follows(rest); err != nil {
			return nil, err
		}
	}
	return d.call(name, known, args, kwargs)
}

var errBody = errors.New("its body is not [[arguments], {keyword arguments}, {what follows}] in JSON, which is protocol 2 of Celery")

// call makes the payload of a task of its arguments.
func (d *Dialect) call(name string, known bool, args, kwargs []byte) ([]byte, error) {
	if !is('[', args) || !is('{', kwargs) {
		return nil, errors.New("its arguments are not [those by position] and {those by name} in JSON")
	}
	args, wrong := untyped(args)
	kwargs, err := untyped(kwargs)
	if err = errors.Join(wrong, err); err != nil {
		return nil, err
	}
	if kwargs[0] != '{' {
		return nil, errors.New("its keyword arguments are a typed value")
	}
	if !known {
		return slices.Concat([]byte("["), args, []byte(", "), kwargs, []byte("]")), nil
	}
	if parameters, ok := d.cfg.Parameters[name]; ok {
		return fields(parameters, args, kwargs)
	}
	return only(args, kwargs)
}

// is says whether a text is JSON that begins so.
func is(first byte, text []byte) bool {
	return len(text) > 0 && text[0] == first && (string(text) == "{}" || json.Valid(text))
}

// follows refuses a task after which others are to run: they would not.
func follows(rest []byte) (err error) {
	each(rest, func(key, value []byte) {
		if nothing := value[0] == 'n' || string(value) == "[]" || string(value) == "{}"; !nothing && err == nil {
			err = fmt.Errorf("it has %.40s, which harebus would not run: let the task send what follows", key)
		}
	})
	return err
}

// only is the one argument of a task.
func only(args, kwargs []byte) (payload []byte, err error) {
	n := 0
	one := func(_, value []byte) {
		payload = value
		n++
	}
	each(args, one)
	each(kwargs, one)
	switch {
	case n != 1:
		return nil, fmt.Errorf("it has %d arguments, and the message is the only one; if the fields of the message are the arguments, say it in Parameters of the dialect", n)
	case payload[0] == 'n':
		return nil, errors.New("its argument is null")
	}
	return payload, nil
}

// fields is an object with the arguments of a task.
func fields(parameters []string, args, kwargs []byte) ([]byte, error) {
	out := append(make([]byte, 0, len(args)+len(kwargs)+16*len(parameters)), '{')
	given := make([]bool, len(parameters))
	var err error
	add := func(key, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), value...)
	}
	n := 0
	each(args, func(_, value []byte) {
		if n < len(parameters) {
			given[n] = true
			add(quoted(parameters[n]), value)
		}
		n++
	})
	if n > len(parameters) {
		return nil, fmt.Errorf("it has %d positional arguments, and Parameters of the dialect has %d names", n, len(parameters))
	}
	each(kwargs, func(key, value []byte) {
		if i := place(parameters, key); i >= 0 {
			if given[i] {
				err = fmt.Errorf("it has the argument %.80s twice", key)
			}
			given[i] = true
		}
		add(key, value)
	})
	if err == nil {
		err = missing(parameters, given)
	}
	return append(out, '}'), err
}

// quoted is the name of a parameter in JSON.
func quoted(parameter string) []byte {
	name, err := json.Marshal(strings.TrimSuffix(parameter, "="))
	if err != nil { // text has no error
		panic(err)
	}
	return name
}

// place is that of a keyword argument among the parameters, or -1.
func place(parameters []string, key []byte) int {
	var name string
	if json.Unmarshal(key, &name) != nil {
		return -1
	}
	return slices.IndexFunc(parameters, func(p string) bool { return strings.TrimSuffix(p, "=") == name })
}

func missing(parameters []string, given []bool) error {
	for i, p := range parameters {
		if !given[i] && !strings.HasSuffix(p, "=") {
			return fmt.Errorf("it lacks the argument %.80q of the Parameters of the dialect; one that may be left out ends with =", p)
		}
	}
	return nil
}

// arguments are those of a task for a payload.
func (d *Dialect) arguments(name string, payload []byte) (body []byte, err error) {
	const follow = ", " + none + "]"
	parameters, ok := d.cfg.Parameters[name]
	switch {
	case !json.Valid(payload):
		return nil, errors.New("the body of a task is JSON: use the codec for it")
	case !ok:
		return slices.Concat([]byte("[["), trimmed(payload), []byte("], {}"), []byte(follow)), nil
	case trimmed(payload)[0] != '{':
		return nil, fmt.Errorf("the fields of %.80q are the arguments of a task (Parameters of the dialect), and it is no object", name)
	}
	values := make([][]byte, len(parameters))
	given := make([]bool, len(parameters))
	var byName []byte
	each(payload, func(key, value []byte) {
		if i := place(parameters, key); i >= 0 {
			values[i], given[i] = value, true
			return
		}
		byName = named(byName, key, value)
	})
	positional := len(parameters)
	if first := slices.Index(given, false); first >= 0 {
		positional = first // those behind a gap go by name
	}
	for i := positional; i < len(parameters); i++ {
		if given[i] {
			byName = named(byName, quoted(parameters[i]), values[i])
		}
	}
	body = slices.Concat([]byte("[["), bytes.Join(values[:positional], []byte(", ")), []byte("], {"), byName, []byte("}"), []byte(follow))
	return body, missing(parameters, given)
}

func named(all, key, value []byte) []byte {
	if len(all) > 0 {
		all = append(all, ", "...)
	}
	return append(append(append(all, key...), ": "...), value...)
}

func trimmed(raw []byte) []byte {
	for len(raw) > 0 && space(raw[0]) {
		raw = raw[1:]
	}
	for len(raw) > 0 && space(raw[len(raw)-1]) {
		raw = raw[:len(raw)-1]
	}
	return raw
}

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// each calls fn with the elements of a JSON array, or with the keys, in quotes, and values of an object; of other values there are none. It
// returns false if raw is no JSON. What it can return true for is JSON if the elements are.
func each(raw []byte, fn func(key, value []byte)) bool {
	if raw = trimmed(raw); len(raw) < 2 || raw[0] != '[' && raw[0] != '{' {
		return false
	}
	object := raw[0] == '{'
	var key []byte
	depth, start := 0, 1
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			i = quote(raw, i)
		case '[', '{':
			depth++
		case ':':
			if depth == 1 {
				key, start = trimmed(raw[start:i]), i+1
			}
		case ',', ']', '}':
			if raw[i] != ',' {
				depth--
			}
			if depth > 1 || depth == 1 && raw[i] != ',' {
				continue
			}
			value := trimmed(raw[start:i])
			last := depth == 0 && i == len(raw)-1 && raw[i] == raw[0]+2
			empty := len(value) == 0 && start == 1 && last
			if depth == 0 && !last || len(value) == 0 && !empty || object != (key != nil) && !empty {
				return false
			}
			if !empty {
				fn(key, value)
			}
			key, start = nil, i+1
		}
	}
	return depth == 0
}

// quote is the end of the text that begins at i.
func quote(raw []byte, i int) int {
	for i++; i < len(raw) && raw[i] != '"'; i++ {
		if raw[i] == '\\' {
			i++
		}
	}
	return i
}

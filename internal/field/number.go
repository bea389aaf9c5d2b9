package field

import "encoding/json"

// Numbers turns each json.Number in a table into an int64, or a float64 if it has a fraction. One
// that is neither becomes its text, for somebody who validates the table.
func Numbers(table map[string]any) {
	for key, value := range table {
		table[key] = number(value)
	}
}

func number(value any) any {
	switch v := value.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case map[string]any:
		Numbers(v)
	case []any:
		for i := range v {
			v[i] = number(v[i])
		}
	}
	return value
}

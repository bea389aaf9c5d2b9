package harebus

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// documentedByHand are the defaults that are not plain values; their cells must
// only say something.
var documentedByHand = map[string]bool{
	"Connect.TLS": true, "Connect.Name": true, "Dial": true, "Payload.Codecs": true, "Reply.Policy": true,
}

// replacedByDefaults are filled in by withDefaults, but by default are none.
var replacedByDefaults = map[string]bool{"Connect.URLs": true, "Logger": true}

// TestConfigTable compares the table of docs/configuration.md with Config: every
// field has a row, every row a field, and the defaults are those of withDefaults.
func TestConfigTable(t *testing.T) {
	t.Parallel()
	rows := configRows(t)
	described := map[string]bool{}
	walkConfig(reflect.ValueOf(Config{}.withDefaults()), "", func(name string, value reflect.Value) {
		described[name] = true
		cell, ok := rows[name]
		if !ok {
			t.Errorf("Config.%s (default %s) has no row", name, defaultCell(name, value))
			return
		}
		if documentedByHand[name] {
			if cell == "" {
				t.Errorf("Config.%s: the row gives no default", name)
			}
			return
		}
		if want := defaultCell(name, value); cell != want {
			t.Errorf("Config.%s: the row says the default is %s, the code says %s", name, cell, want)
		}
	})
	for name := range rows {
		if !described[name] {
			t.Errorf("there is a row for %s, which Config does not have", name)
		}
	}
}

// configRows reads the first table: field to default.
func configRows(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "|---|---|---|---|\n")
	if !ok {
		t.Fatal("no table with four columns")
	}
	rows := map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 {
			break
		}
		name := strings.Trim(cells[1], " `")
		if _, twice := rows[name]; twice {
			t.Errorf("two rows for %s", name)
		}
		if len(cells) != 6 || strings.TrimSpace(cells[4]) == "" {
			t.Errorf("row %s does not have four cells with a meaning", name)
		}
		rows[name] = strings.TrimSpace(cells[2])
	}
	return rows
}

// walkConfig visits the exported fields, those of the sub-structs by their path.
func walkConfig(v reflect.Value, path string, visit func(name string, value reflect.Value)) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == v.Type().PkgPath() {
			walkConfig(v.Field(i), path+f.Name+".", visit)
			continue
		}
		visit(path+f.Name, v.Field(i))
	}
}

// defaultCell writes a default as the table does.
func defaultCell(name string, v reflect.Value) string {
	if replacedByDefaults[name] {
		return "none"
	}
	switch value := v.Interface().(type) {
	case TimeFormat:
		return map[TimeFormat]string{TimeISO: "`TimeISO`", TimeLegacy: "`TimeLegacy`"}[value]
	case DeclareMode:
		return map[DeclareMode]string{DeclareAll: "`DeclareAll`", CheckOnly: "`CheckOnly`"}[value]
	case UnhandledMode:
		return map[UnhandledMode]string{UnhandledRetry: "`UnhandledRetry`", UnhandledPark: "`UnhandledPark`", UnhandledIgnore: "`UnhandledIgnore`"}[value]
	case func() backoff.BackOff:
		policy, ok := value().(*backoff.ExponentialBackOff)
		if !ok || policy.Multiplier != 2 || policy.MaxElapsedTime != 0 {
			return "another policy than the table can describe"
		}
		return fmt.Sprintf("`%v` doubling to `%v`, ± %.0f %%", policy.InitialInterval, policy.MaxInterval, 100*policy.RandomizationFactor)
	case time.Duration:
		if value == 0 {
			return "none"
		}
	case bool:
		return fmt.Sprintf("`%t`", value)
	}
	if v.IsZero() || (v.Kind() == reflect.Slice && v.Len() == 0) {
		return "none"
	}
	return fmt.Sprintf("`%v`", v.Interface())
}

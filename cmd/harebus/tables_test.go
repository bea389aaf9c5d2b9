package main

import (
	"strings"
	"testing"
)

// TestOutbox: the SQL is printed for each database, and a wrong command line says what is
// wrong and prints none.
func TestOutbox(t *testing.T) {
	t.Parallel()
	for _, dialect := range []string{"postgres", "mysql", "mariadb", "sqlite"} {
		for args, parts := range map[string][]string{
			"schema":                     {"create table if not exists shop_harebus_outbox", "insert", "shop_harebus_schema"},
			"sql check":                  {"from shop_harebus_schema", "'good'"},
			"sql status":                 {"group by lane"},
			"sql refused":                {"where lane = -1 order by id limit 100;\n"},
			"sql retry 7 -8":             {"set not_before = null where lane = -1 and id in (7, -8);\n"},
			"sql discard 7":              {"delete from shop_harebus_outbox where lane = -1 and id in (7);\n"},
			"sql -all discard":           {"delete from shop_harebus_outbox where lane = -1;\n"},
			"sql retry":                  {"needs the ids of messages, or -all"},
			"sql -all discard 7":         {"needs the ids of messages, or -all"},
			"sql retry x":                {`"x" is not the id`},
			"sql status 7":               {"status has no ids"},
			"sql":                        {"the task is missing"},
			"sql drop":                   {`there is no task "drop"`},
			"schema 7":                   {"schema has no arguments"},
			"what":                       {`outbox "what": it is schema or sql`},
			"schema -prefix a;drop":      {`the prefix "a;drop"`},
			"sql -dialect oracle status": {`there is no dialect "oracle"`},
		} {
			t.Run(dialect+"/"+args, func(t *testing.T) {
				list := strings.Fields(args)
				list = append([]string{"outbox", list[0], "-prefix", "shop_", "-dialect", dialect}, list[1:]...)
				r := execute(t, "", list...)
				code, out, errs := r.code, r.out, r.err
				wrong := strings.HasPrefix(errs, "harebus: outbox: ")
				if wrong == (code == exitOK) || wrong != (out == "") {
					t.Errorf("code %d, stdout %q, stderr %q", code, out, errs)
				}
				for _, part := range parts {
					if !strings.Contains(out+errs, part) {
						t.Errorf("%s%s: no %q", out, errs, part)
					}
				}
			})
		}
	}
	execute(t, "", "outbox", "schema").check(t, exitUsage, `there is no dialect ""`)
}

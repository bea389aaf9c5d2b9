package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	stored "github.com/harebus/harebus/outbox"
)

const outboxExplanation = `Prints SQL for the tables of package outbox, to be run with psql, mysql, mariadb or
sqlite3. It does not connect to a database.

  harebus outbox schema -dialect postgres | psql shop
  harebus outbox sql -dialect postgres refused | psql shop
  harebus outbox sql -dialect postgres retry 7 8 | psql shop

The tasks of sql:
  check      whether the tables have the version that this harebus works with
  status     how many messages wait in each lane; lane -1 has the refused ones
  refused    the messages that the broker refused, with the reasons: the oldest 100
  retry      has refused messages tried again: those with the given ids, or -all
  discard    removes refused messages for good: those with the given ids, or -all

The SQL of schema can be run again: it makes what is missing.`

// runOutbox is the command outbox.
func runOutbox(_ context.Context, args []string, std stdio) int {
	flags := newFlags("outbox schema [flags]\n       harebus outbox sql [flags] TASK [ID...]", outboxExplanation)
	dialect := flags.String("dialect", "", "the database: postgres, mysql, mariadb or sqlite")
	prefix := flags.String("prefix", "", "what the names of the tables start with, such as a `schema` and a dot")
	all := flags.Bool("all", false, "retry or discard every refused message")
	form := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		form, args = args[0], args[1:]
	}
	if code, done := parse(flags, args, std); done {
		return code
	}
	task, ids, err := outboxTask(form, flags.Args(), *all)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	d, err := stored.ParseDialect(*dialect)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	text, err := stored.Script(d, *prefix, task, ids...)
	if err != nil {
		return std.misuse(flags, err.Error())
	}
	fmt.Fprint(std.out, text)
	return exitOK
}

// outboxTask is what is to be printed, and for which messages.
func outboxTask(form string, args []string, all bool) (task string, ids []int64, err error) {
	switch {
	case form == "schema" && len(args) == 0 && !all:
		return "schema", nil, nil
	case form == "schema":
		return "", nil, errors.New("schema has no arguments")
	case form != "sql":
		return "", nil, fmt.Errorf("outbox %q: it is schema or sql", form)
	case len(args) == 0:
		return "", nil, errors.New("the task is missing")
	}
	task = args[0]
	for _, arg := range args[1:] {
		id, err := strconv.ParseInt(arg, 10, 64)
		if err != nil {
			return "", nil, fmt.Errorf("%q is not the id of a refused message", arg)
		}
		ids = append(ids, id)
	}
	acts := task == "retry" || task == "discard"
	switch {
	case acts && (len(ids) > 0) == all:
		return "", nil, fmt.Errorf("%s needs the ids of messages, or -all before the task", task)
	case !acts && (len(ids) > 0 || all):
		return "", nil, fmt.Errorf("%s has no ids", task)
	}
	return task, ids, nil
}

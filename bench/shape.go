package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// shapeRow is one value of a sweep, or one instant of a series.
type shapeRow struct {
	Shape string  `json:"shape"` // goroutines, queues, …, backlog or soak
	X     float64 `json:"x"`     // the value; in a series the seconds since its start
	row
	memory
	Prefetch int `json:"prefetch,omitempty"`         // of a series
	Alive    int `json:"goroutines_alive,omitempty"` // in a series, of the whole process
}

// shapes is what it takes to measure them.
type shapes struct {
	server        *server
	report        *report[shapeRow]
	pace          pace
	backlog       int           // messages
	soak          time.Duration // in all
	often, seldom time.Duration // between the rows of a backlog and of a soak
	stderr        io.Writer
	started       time.Time
}

func (s *shapes) say(format string, args ...any) {
	fmt.Fprintf(s.stderr, "%6.1fs %s\n", time.Since(s.started).Seconds(), fmt.Sprintf(format, args...))
}

const (
	backlogName = "backlog"
	soakName    = "soak"
)

// shapeNames are all that can be measured, in the order of the page.
func shapeNames() []string {
	var names []string
	for _, s := range sweeps() {
		names = append(names, s.name)
	}
	return append(names, backlogName, soakName)
}

// chosenShapes are those that the flag names.
func chosenShapes(text string) ([]string, error) {
	all := shapeNames()
	if text == "all" {
		return all, nil
	}
	chosen := list(text)
	for _, name := range chosen {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("bench: no shape %q; there are %s", name, strings.Join(all, ", "))
		}
	}
	return chosen, nil
}

// shapeReport shows the chosen rows, even where a file has more.
func shapeReport(o *options, chosen []string, stdout io.Writer) *report[shapeRow] {
	pick := func(rows []shapeRow) []shapeRow {
		return slices.DeleteFunc(slices.Clone(rows), func(r shapeRow) bool { return !slices.Contains(chosen, r.Shape) })
	}
	return &report[shapeRow]{
		options: o, stdout: stdout,
		print: func(w io.Writer, rows []shapeRow) error { return writeShapes(w, pick(rows)) },
		draw:  func(name string, rows []shapeRow) error { return drawShapes(name, pick(rows)) },
	}
}

// measureShapes measures on RabbitMQ.
func measureShapes(ctx context.Context, o *options, chosen []string, report *report[shapeRow], stderr io.Writer) (err error) {
	on := &shapes{
		report: report, stderr: stderr, started: time.Now(), pace: o.pace(time.Now()),
		backlog: 1_000_000, soak: 5 * time.Minute, often: time.Second, seldom: 5 * time.Second,
	}
	all := sweeps()
	if o.short {
		on.backlog, on.soak, on.often, on.seldom = 20_000, 5*time.Second, 100*time.Millisecond, 200*time.Millisecond
		for i := range all {
			all[i].ends()
		}
	}
	if on.server, err = startRabbit(ctx, o.port); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, on.server.close()) }()
	if err := on.measure(ctx, all, chosen); err != nil {
		return err
	}
	on.say("done")
	return nil
}

func (s *shapes) measure(ctx context.Context, all []sweep, chosen []string) error {
	for _, one := range all {
		if slices.Contains(chosen, one.name) {
			if err := one.measure(ctx, s); err != nil {
				return err
			}
		}
	}
	if slices.Contains(chosen, backlogName) {
		if err := measureBacklogs(ctx, s); err != nil {
			return err
		}
	}
	if slices.Contains(chosen, soakName) {
		return measureSoak(ctx, s)
	}
	return nil
}

const mebi = 1 << 20

func mebibytes(n int64) string { return fmt.Sprintf("%.1f", float64(n)/mebi) }

// writeShapes prints Markdown: a table for each sweep, one for the backlogs, and
// the verdict on the soak.
func writeShapes(w io.Writer, rows []shapeRow) error {
	var b bytes.Buffer
	for _, s := range sweeps() {
		writeSweep(&b, s.axis, shaped(rows, s.name))
	}
	writeBacklogs(&b, shaped(rows, backlogName))
	if soak := shaped(rows, soakName); len(soak) > 0 {
		fmt.Fprintf(&b, "Soak: %v.\n", judge(soak))
	}
	_, err := w.Write(b.Bytes())
	return err
}

// shaped are the rows of one shape.
func shaped(rows []shapeRow, name string) []shapeRow {
	return slices.DeleteFunc(slices.Clone(rows), func(r shapeRow) bool { return r.Shape != name })
}

func writeSweep(b *bytes.Buffer, axis string, rows []shapeRow) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "| %s | queue | | msgs/s | × raw | p50 µs | CPU µs | allocs | heap MiB | stacks MiB | peak RSS MiB |\n", axis)
	b.WriteString("|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, r := range rows {
		against, noisy := "–", ""
		if raw := r.rival(rows); raw != nil {
			against = fmt.Sprintf("%.2f", r.Rate/raw.Rate)
		}
		if !r.Quiet {
			noisy = " (!)"
		}
		fmt.Fprintf(b, "| %s | %s | %s%s | %s | %s | %s | %.1f | %.0f | %s | %s | %s |\n", thousands(r.X), r.QueueType, r.Impl, noisy,
			thousands(r.Rate), against, optional(r.P50, 0), r.CPU, r.Allocs, mebibytes(r.Heap), mebibytes(r.Stacks), mebibytes(r.Peak))
	}
	b.WriteString("\n")
}

// rival is the plain client's row at the same value.
func (r *shapeRow) rival(rows []shapeRow) *shapeRow {
	i := slices.IndexFunc(rows, func(o shapeRow) bool { return o.Impl == "raw" && o.QueueType == r.QueueType && o.X == r.X })
	if i < 0 {
		return nil
	}
	return &rows[i]
}

func writeBacklogs(b *bytes.Buffer, rows []shapeRow) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("| backlog | prefetch | seconds | median msgs/s | heap MiB, first | median | most | peak RSS MiB |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, l := range linesOf(rows) {
		heaps := l.pick(func(r shapeRow) float64 { return float64(r.Heap) / mebi })
		last := l.rows[len(l.rows)-1]
		fmt.Fprintf(b, "| %s | %d | %.0f | %s | %.2f | %.2f | %.2f | %s |\n", last.QueueType, last.Prefetch, last.X,
			thousands(median(l.pick(func(r shapeRow) float64 { return r.Rate }))), heaps[0], median(slices.Clone(heaps)), slices.Max(heaps), mebibytes(last.Peak))
	}
	b.WriteString("\n")
}

// drawShapes writes a plot for each shape: name.svg becomes name-goroutines.svg
// and so on.
func drawShapes(name string, rows []shapeRow) error {
	suffix := filepath.Ext(name)
	for _, c := range charts() {
		if of := shaped(rows, c.shape); len(of) > 0 {
			file := strings.TrimSuffix(name, suffix) + "-" + c.shape + suffix
			if err := os.WriteFile(file, c.draw(of), 0o644); err != nil { //nolint:gosec // a picture
				return err
			}
		}
	}
	return nil
}

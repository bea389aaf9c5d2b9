package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestEveryShapeRuns measures the ends of every sweep, a short backlog and a
// short soak, writes all of it and reads it back.
func TestEveryShapeRuns(t *testing.T) {
	p, _ := inProcess(t)
	var lines bytes.Buffer
	folder := t.TempDir()
	r := shapeReport(&options{json: true, svg: filepath.Join(folder, "scaling.svg")}, shapeNames(), &lines)
	on := &shapes{
		server: p.server, report: r, stderr: io.Discard, started: time.Now(),
		pace:    pace{rounds: 1, duration: 50 * time.Millisecond, messages: 2000, noise: 1, deadline: time.Now().Add(time.Minute)},
		backlog: 5000, soak: 600 * time.Millisecond, often: 10 * time.Millisecond, seldom: 50 * time.Millisecond,
	}
	all := sweeps()
	for i := range all {
		all[i].ends()
		all[i].kinds = all[i].kinds[:1]
		if all[i].name == "window" {
			all[i].values = []int{1000} // a small one takes long with thousands of goroutines
		}
	}
	if err := errors.Join(on.measure(t.Context(), all, shapeNames()), r.finish()); err != nil {
		t.Fatal(err)
	}
	for _, row := range r.rows {
		if row.Shape != soakName && row.Shape != backlogName && !(row.Rate > 0 && row.CPU > 0 && row.Allocs > 0 && row.Heap >= 0) {
			t.Errorf("%+v", row)
		}
	}
	read, err := readRows[shapeRow](&lines)
	if err != nil || !reflect.DeepEqual(read, r.rows) {
		t.Errorf("read %d rows, %v; wrote %d", len(read), err, len(r.rows))
	}
	for _, name := range shapeNames() {
		if len(shaped(r.rows, name)) == 0 {
			t.Errorf("no rows of %s", name)
		}
		picture, err := os.ReadFile(filepath.Join(folder, "scaling-"+name+".svg"))
		if err != nil {
			t.Fatal(err)
		}
		var drawn struct {
			XMLName xml.Name `xml:"svg"`
		}
		if err := xml.Unmarshal(picture, &drawn); err != nil || bytes.Contains(picture, []byte("NaN")) || bytes.Contains(picture, []byte("Inf")) {
			t.Errorf("plot of %s: %v: %s", name, err, picture)
		}
	}
	var table bytes.Buffer
	if err := writeShapes(&table, r.rows); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| prefetch | queue |", "| backlog | prefetch |", "Soak: "} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("no %q in\n%s", want, &table)
		}
	}
}

// TestMemoryIsBoundedByPrefetch compares a client that may hold much with one
// that may not.
func TestMemoryIsBoundedByPrefetch(t *testing.T) {
	p, _ := inProcess(t)
	sizes := map[int]int64{}
	for _, prefetch := range []int{10, 3000} {
		i := slices.IndexFunc(sweeps(), func(s sweep) bool { return s.name == "prefetch" })
		at := sweeps()[i].at("quorum", prefetch)
		c := &contest{spec: at.spec, place: p, pace: at.paced(pace{messages: 300, duration: time.Second})}
		if err := c.prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		m, err := c.memory(t.Context(), at.contenders[0])
		if err := errors.Join(err, c.finish()); err != nil {
			t.Fatal(err)
		}
		sizes[prefetch] = m.Heap
	}
	if least := int64(2900 * small); sizes[3000]-sizes[10] < least {
		t.Errorf("heap of %d bytes with a prefetch of 10, of %d with 3000: that is not %d more", sizes[10], sizes[3000], least)
	}
}

func TestChosenShapes(t *testing.T) {
	if got, err := chosenShapes("all"); err != nil || len(got) != len(sweeps())+2 {
		t.Errorf("all: %v, %v", got, err)
	}
	if got, err := chosenShapes("soak,size"); err != nil || !slices.Equal(got, []string{"soak", "size"}) {
		t.Errorf("two: %v, %v", got, err)
	}
	if _, err := chosenShapes("size,shoes"); err == nil || !strings.Contains(err.Error(), `"shoes"`) {
		t.Errorf("error %v, want one that names the shape", err)
	}
}

// TestShapeReportShowsTheChosen reads rows of several shapes from a file.
func TestShapeReportShowsTheChosen(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "rows.jsonl")
	var lines, table bytes.Buffer
	for _, name := range []string{"size", "queues", soakName} {
		if err := writeJSON(&lines, shapeRow{Shape: name, X: 4, row: row{Impl: "harebus", QueueType: "quorum", Rate: 1234}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-shape", "queues", "-from", file, "-svg", filepath.Join(folder, "plot.svg")}
	if err := run(t.Context(), args, &table, io.Discard); err != nil {
		t.Fatal(err)
	}
	if got := table.String(); !strings.Contains(got, "| queues |") || strings.Contains(got, "bytes of a body") || strings.Contains(got, "Soak") {
		t.Errorf("table:\n%s", got)
	}
	if plots, err := filepath.Glob(filepath.Join(folder, "plot*")); err != nil || len(plots) != 1 || filepath.Base(plots[0]) != "plot-queues.svg" {
		t.Errorf("plots %v, %v", plots, err)
	}
}

// soaked is five minutes in which the heap grows by so much a minute.
func soaked(heapPerMinute float64) []shapeRow {
	var rows []shapeRow
	for s := 5; s <= 300; s += 5 {
		noise := int64(s % 15 * 10_000)
		rows = append(rows, shapeRow{
			Shape: soakName, X: float64(s), Alive: 120,
			memory: memory{Heap: 3*mebi + noise + int64(heapPerMinute*float64(s)/60), Resident: 30 * mebi},
		})
	}
	return rows
}

func TestVerdict(t *testing.T) {
	if v := judge(soaked(0)); v.grows() || v.elapsed != 5*time.Minute || v.part != time.Minute || math.Abs(v.slope) > 10_000 {
		t.Errorf("level: %v", v)
	}
	if v := judge(soaked(mebi)); !v.grows() || math.Abs(v.slope-mebi) > 10_000 || math.Abs(v.last.heap-v.first.heap-4*mebi) > mebi/10 {
		t.Errorf("a mebibyte a minute: %v", v)
	}
	goroutines := soaked(0)
	for i := range goroutines {
		goroutines[i].Alive += i
	}
	if v := judge(goroutines); !v.grows() || !strings.HasPrefix(v.String(), "GROWTH") {
		t.Errorf("one more goroutine every five seconds: %v", v)
	}
	if v := judge(soaked(0)[:1]); v.grows() || v.slope != 0 {
		t.Errorf("one row: %v", v)
	}
}

func TestScale(t *testing.T) {
	linear := newScale([]float64{0, 1234, nan, 34_200}, false)
	if got := linear.ticks(); !slices.Equal(got, []float64{0, 10_000, 20_000, 30_000, 40_000}) || linear.place(20_000) != 0.5 {
		t.Errorf("linear: %v", got)
	}
	logarithmic := newScale([]float64{0.3, 420}, true)
	if got := logarithmic.ticks(); len(got) != 5 || logarithmic.place(0.1) != 0 || math.Abs(logarithmic.place(10)-0.5) > 1e-9 {
		t.Errorf("logarithmic: %v", got)
	}
	values := valueScale([]float64{16, 1, 4, 4})
	if got := values.ticks(); !slices.Equal(got, []float64{1, 4, 16}) || values.place(4) != 0.5 {
		t.Errorf("values: %v", got)
	}
	if empty := newScale([]float64{nan, 0}, false); math.IsNaN(empty.place(0)) {
		t.Errorf("nothing to show: %+v", empty)
	}
	for v, want := range map[float64]string{12_000: "12k", 65_536: "64Ki", 1 << 20: "1Mi", 0.25: "0.25", 1000: "1k", 2.5e6: "2.5M", 0: "0"} {
		if got := short(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// row is one line of the result: the medians of one library's rounds. What was
// not measured is null.
type row struct {
	Workload   string   `json:"workload"`
	Impl       string   `json:"impl"`
	QueueType  string   `json:"queue_type"`
	Size       int      `json:"size"`
	Goroutines int      `json:"goroutines"`
	Queues     int      `json:"queues"`
	Rate       float64  `json:"msgs_per_s"`
	P50        *float64 `json:"p50_us"`
	P99        *float64 `json:"p99_us"`
	P999       *float64 `json:"p999_us"`
	CPU        float64  `json:"client_cpu_us_per_msg"`
	Allocs     float64  `json:"allocs_per_msg"`
	Bytes      float64  `json:"bytes_per_msg"`
	Writes     float64  `json:"writes_per_msg"`
	Reads      float64  `json:"reads_per_msg"`
	BrokerCPU  *float64 `json:"broker_cpu_us_per_msg"`
	Database   *float64 `json:"database_cpu_us_per_msg"`
	Foreign    *float64 `json:"foreign_cpu"` // share of the machine
	Rounds     int      `json:"rounds"`
	Noisy      int      `json:"noisy_rounds"`
	Quiet      bool     `json:"quiet"` // the figures come from undisturbed rounds only
	Broker     string   `json:"broker"`
}

// newRow takes the medians of the quiet rounds, or of all if none was quiet.
func newRow(s spec, broker string, t tally, noise float64) row {
	used := slices.DeleteFunc(slices.Clone(t.rounds), func(f figures) bool { return f.foreign > noise })
	r := row{
		Workload: s.workload, Impl: t.library, QueueType: s.kind, Size: s.size, Goroutines: s.goroutines, Queues: s.queues,
		Rounds: len(t.rounds), Noisy: len(t.rounds) - len(used), Quiet: len(used) > 0, Broker: broker,
	}
	if !r.Quiet {
		used = t.rounds
	}
	of := func(pick func(f figures) float64) float64 {
		values := make([]float64, len(used))
		for i, f := range used {
			values[i] = pick(f)
		}
		return median(values)
	}
	r.Rate = round(of(func(f figures) float64 { return f.rate }), 0)
	r.P50 = known(of(func(f figures) float64 { return f.p50 }), 1)
	r.P99 = known(of(func(f figures) float64 { return f.p99 }), 1)
	r.P999 = known(of(func(f figures) float64 { return f.p999 }), 1)
	r.CPU = round(of(func(f figures) float64 { return f.cpu }), 2)
	r.Allocs = round(of(func(f figures) float64 { return f.allocs }), 1)
	r.Bytes = round(of(func(f figures) float64 { return f.bytes }), 0)
	r.Writes = round(of(func(f figures) float64 { return f.writes }), 3)
	r.Reads = round(of(func(f figures) float64 { return f.reads }), 3)
	r.BrokerCPU = known(of(func(f figures) float64 { return f.broker }), 1)
	r.Database = known(of(func(f figures) float64 { return f.database }), 1)
	r.Foreign = known(of(func(f figures) float64 { return f.foreign }), 3)
	return r
}

func median(values []float64) float64 {
	slices.Sort(values)
	if n := len(values); n%2 == 1 {
		return values[n/2]
	} else if n > 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return nan
}

func round(x float64, digits int) float64 {
	shift := math.Pow10(digits)
	return math.Round(x*shift) / shift
}

func known(x float64, digits int) *float64 {
	if math.IsNaN(x) {
		return nil
	}
	x = round(x, digits)
	return &x
}

// readRows reads JSON lines.
func readRows[R any](r io.Reader) (rows []R, err error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var one R
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return nil, err
		}
		rows = append(rows, one)
	}
	return rows, lines.Err()
}

func writeJSON(w io.Writer, r any) error {
	return json.NewEncoder(w).Encode(r)
}

// base is who the others of a contest are compared with: raw, or plain consumption among the ways to consume.
func base(rows []row, r row) *row {
	if raw := find(rows, r, "raw"); raw != nil {
		return raw
	}
	return find(rows, r, "harebus-plain")
}

// writeTable prints rows for people; × raw is the rate against the base of the same
// contest.
func writeTable(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "workload\tqueue\tbody\tgoroutines\tqueues\timpl\tmsgs/s\t× raw\tp50 µs\tp99 µs\tp99.9 µs\tCPU µs\tbroker µs\tdatabase µs\tallocs\tbytes\twrites\treads\tnoise\t\n")
	for _, r := range rows {
		goroutines, against := strconv.Itoa(r.Goroutines), "–"
		if r.Goroutines == 0 {
			goroutines = "–"
		}
		if raw := base(rows, r); raw != nil {
			against = fmt.Sprintf("%.2f", r.Rate/raw.Rate)
		}
		noise := optional(r.Foreign, 2)
		if !r.Quiet {
			noise += "!"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%d\t%s\t%.0f\t%s\t%s\t%s\t%s\t%.1f\t%s\t%s\t%.1f\t%.0f\t%.2f\t%.2f\t%s\t\n",
			r.Workload, r.QueueType, r.Size, goroutines, r.Queues, r.Impl, r.Rate, against,
			optional(r.P50, 0), optional(r.P99, 0), optional(r.P999, 0), r.CPU, optional(r.BrokerCPU, 0), optional(r.Database, 0), r.Allocs, r.Bytes, r.Writes, r.Reads, noise)
	}
	return t.Flush()
}

// writeMarkdown prints the columns that matter most.
func writeMarkdown(w io.Writer, rows []row) error {
	var b strings.Builder
	with := slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r.Database == nil })
	rows = slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r.Database != nil })
	writeMessages(&b, rows)
	writeChanges(&b, with)
	_, err := io.WriteString(w, b.String())
	return err
}

func writeMessages(b *strings.Builder, rows []row) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("| workload | queue | bytes | goroutines | queues | | msgs/s | × raw | p50 µs | p99 µs | CPU µs | allocs | writes |\n")
	b.WriteString("|---|---|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, r := range rows {
		goroutines, against, noisy := strconv.Itoa(r.Goroutines), "–", ""
		if r.Goroutines == 0 {
			goroutines = "–"
		}
		if raw := base(rows, r); raw != nil {
			against = fmt.Sprintf("%.2f", r.Rate/raw.Rate)
		}
		if !r.Quiet {
			noisy = " (!)"
		}
		fmt.Fprintf(b, "| %s | %s | %d | %s | %d | %s%s | %s | %s | %s | %s | %.1f | %.0f | %.2f |\n",
			r.Workload, r.QueueType, r.Size, goroutines, r.Queues, r.Impl, noisy, thousands(r.Rate), against,
			optional(r.P50, 0), optional(r.P99, 0), r.CPU, r.Allocs, r.Writes)
	}
}

// writeChanges is for rows with a database.
func writeChanges(b *strings.Builder, rows []row) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("| workload | goroutines | | a second | p50 µs | p99 µs | client CPU µs | database | broker |\n|---|--:|---|--:|--:|--:|--:|--:|--:|\n")
	for _, r := range rows {
		noisy := ""
		if !r.Quiet {
			noisy = " (!)"
		}
		fmt.Fprintf(b, "| %s | %d | %s%s | %s | %s | %s | %.0f | %s | %s |\n", r.Workload, r.Goroutines, r.Impl, noisy, thousands(r.Rate),
			optional(r.P50, 0), optional(r.P99, 0), r.CPU, optional(r.Database, 0), optional(r.BrokerCPU, 0))
	}
}

func optional(x *float64, digits int) string {
	if x == nil {
		return "–"
	}
	return strconv.FormatFloat(*x, 'f', digits, 64)
}

// find returns the row of another library in the contest of r.
func find(rows []row, r row, impl string) *row {
	for i, o := range rows {
		if o.Impl == impl && o.Workload == r.Workload && o.QueueType == r.QueueType && o.Size == r.Size &&
			o.Goroutines == r.Goroutines && o.Queues == r.Queues {
			return &rows[i]
		}
	}
	return nil
}

package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
)

// chart is one plot: the same rows in several panels.
type chart struct {
	shape  string
	axis   string // of x
	time   bool   // x is time; else it is a value of a sweep, on a logarithmic axis
	panels []metric
}

// metric is what a panel shows.
type metric struct {
	name string
	log  bool
	pick func(r shapeRow) float64
}

var (
	rateMetric   = metric{"messages a second", false, func(r shapeRow) float64 { return r.Rate }}
	cpuMetric    = metric{"client CPU, µs a message", false, func(r shapeRow) float64 { return r.CPU }}
	heapMetric   = metric{"heap after a GC, MiB", false, func(r shapeRow) float64 { return float64(r.Heap) / mebi }}
	memoryMetric = metric{"heap after a GC and stacks, MiB", false, func(r shapeRow) float64 { return float64(r.Heap+r.Stacks) / mebi }}
	rssMetric    = metric{"resident memory, MiB more than before", false, func(r shapeRow) float64 { return float64(r.Resident) / mebi }}
	latency      = metric{"median latency, ms", true, func(r shapeRow) float64 {
		if r.P50 == nil {
			return nan
		}
		return *r.P50 / 1000
	}}
	throughput = metric{"MiB a second", false, func(r shapeRow) float64 { return r.Rate * r.X / mebi }}
)

func (m metric) logarithmic() metric {
	m.log = true
	return m
}

// charts are the plots of the page.
func charts() []chart {
	panels := map[string][]metric{
		"goroutines": {rateMetric, cpuMetric, latency, memoryMetric},
		"queues":     {rateMetric, cpuMetric, memoryMetric},
		"size":       {rateMetric.logarithmic(), throughput, cpuMetric.logarithmic(), memoryMetric},
		"window":     {rateMetric, latency, heapMetric},
	}
	var all []chart
	for _, s := range sweeps() {
		c := chart{shape: s.name, axis: s.axis, panels: panels[s.name]}
		if c.panels == nil {
			c.panels = []metric{rateMetric, cpuMetric, memoryMetric}
		}
		all = append(all, c)
	}
	return append(all,
		chart{backlogName, "seconds since the consumer started", true, []metric{rateMetric, heapMetric, rssMetric}},
		chart{soakName, "seconds", true, []metric{rateMetric, heapMetric, rssMetric}},
	)
}

// line is what belongs together.
type line struct {
	label, colour, dash string
	rows                []shapeRow
}

func (l *line) pick(pick func(r shapeRow) float64) []float64 {
	values := make([]float64, len(l.rows))
	for i, r := range l.rows {
		values[i] = pick(r)
	}
	return values
}

// linesOf groups rows, in their order: by library, kind of queue and prefetch.
func linesOf(rows []shapeRow) []line {
	var lines []line
	for _, r := range rows {
		label := r.Impl + ", " + r.QueueType
		if r.Prefetch > 0 {
			label += ", prefetch " + strconv.Itoa(r.Prefetch)
		}
		if i := slices.IndexFunc(lines, func(l line) bool { return l.label == label }); i >= 0 {
			lines[i].rows = append(lines[i].rows, r)
			continue
		}
		l := line{label: label, colour: colours[r.Impl], rows: []shapeRow{r}}
		if r.Prefetch > prefetch {
			l.colour = "#1c7ed6"
		}
		if r.QueueType == "classic" {
			l.dash = ` stroke-dasharray="5 3"`
		}
		lines = append(lines, l)
	}
	return lines
}

// Sizes of a chart, in pixels; the margin is that of the other plot.
const (
	chartWidth  = 270
	chartHeight = 200
	chartLeft   = 52 // of a panel, for the labels
	chartBelow  = 34
	legendLine  = 18
)

func (c *chart) draw(rows []shapeRow) []byte {
	lines := linesOf(rows)
	width := 2*margin + len(c.panels)*(chartLeft+chartWidth)
	top := margin + headHeight + (len(lines)+3)/4*legendLine
	height := top + chartHeight + chartBelow + margin
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="15" font-weight="bold" fill="#212529">%s (RabbitMQ %s)</text>`+"\n",
		margin, margin+14, html.EscapeString(c.title()), html.EscapeString(rows[0].Broker))
	for i, l := range lines {
		x, y := margin+i%4*220, margin+headHeight+i/4*legendLine
		fmt.Fprintf(&b, `<path d="M%d %dh24" stroke="%s" stroke-width="2"%s/>`+"\n", x, y-4, l.colour, l.dash)
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#212529">%s</text>`+"\n", x+30, y, html.EscapeString(l.label))
	}
	for i, m := range c.panels {
		c.drawPanel(&b, m, lines, margin+chartLeft+i*(chartLeft+chartWidth), top+legendLine)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (c *chart) title() string {
	if c.time {
		return map[string]string{backlogName: "Draining a backlog", soakName: "Publishing and consuming without pause"}[c.shape]
	}
	return "By " + c.axis
}

// drawPanel draws one metric into a rectangle whose upper left corner is x, y.
func (c *chart) drawPanel(b *bytes.Buffer, m metric, lines []line, x, y int) {
	const w, h = chartWidth - margin, chartHeight - margin
	var xs, ys []float64
	for _, l := range lines {
		xs = append(xs, l.pick(func(r shapeRow) float64 { return r.X })...)
		ys = append(ys, l.pick(m.pick)...)
	}
	across, up := newScale(xs, false), newScale(ys, m.log)
	if !c.time {
		across = valueScale(xs)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold" fill="#212529">%s</text>`+"\n", x, y-6, html.EscapeString(m.name))
	for _, tick := range up.ticks() {
		at := float64(y) + h*(1-up.place(tick))
		fmt.Fprintf(b, `<path d="M%d %.1fh%d" stroke="#dee2e6"/>`+"\n", x, at, w)
		fmt.Fprintf(b, `<text x="%d" y="%.1f" text-anchor="end" fill="#495057">%s</text>`+"\n", x-5, at+4, short(tick))
	}
	for _, tick := range across.ticks() {
		at := float64(x) + w*across.place(tick)
		fmt.Fprintf(b, `<path d="M%.1f %dv4" stroke="#868e96"/>`+"\n", at, y+h)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#495057">%s</text>`+"\n", at, y+h+16, short(tick))
	}
	fmt.Fprintf(b, `<path d="M%d %dv%dh%d" fill="none" stroke="#868e96"/>`+"\n", x, y, h, w)
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle" fill="#495057">%s</text>`+"\n", x+w/2, y+h+30, html.EscapeString(c.axis))
	for _, l := range lines {
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="2"%s points="`, l.colour, l.dash)
		for _, r := range l.rows {
			if v := m.pick(r); !math.IsNaN(v) {
				fmt.Fprintf(b, "%.1f,%.1f ", float64(x)+w*across.place(r.X), float64(y)+h*(1-up.place(v)))
			}
		}
		b.WriteString(`"/>` + "\n")
	}
}

// scale maps values to 0…1: linear ones begin at 0.
type scale struct {
	log         bool
	least, most float64
	values      []float64 // to mark; nil for round numbers
}

// valueScale is logarithmic and marks the values themselves.
func valueScale(values []float64) scale {
	slices.Sort(values)
	values = slices.Compact(values)
	return scale{true, values[0], max(values[len(values)-1], 2*values[0]), values}
}

func newScale(values []float64, log bool) scale {
	s := scale{log: log, least: math.Inf(1)}
	for _, v := range values {
		if v > 0 {
			s.least, s.most = min(s.least, v), max(s.most, v)
		}
	}
	if s.most == 0 {
		s.least, s.most = 1, 1
	}
	if log {
		s.least, s.most = math.Pow(10, math.Floor(math.Log10(s.least))), math.Pow(10, math.Ceil(math.Log10(s.most)))
		if s.least == s.most {
			s.most *= 10
		}
		return s
	}
	step := s.step()
	s.least, s.most = 0, math.Ceil(s.most/step)*step
	return s
}

func (s scale) place(v float64) float64 {
	if s.log {
		return math.Log(max(v, s.least)/s.least) / math.Log(s.most/s.least)
	}
	return v / s.most
}

// step is a round number that fits a few times.
func (s scale) step() float64 {
	const steps = 4
	power := math.Pow(10, math.Floor(math.Log10(s.most/steps)))
	for _, factor := range []float64{1, 2, 2.5, 5} {
		if factor*power*steps >= s.most {
			return factor * power
		}
	}
	return 10 * power
}

func (s scale) ticks() []float64 {
	if s.values != nil {
		return s.values
	}
	var ticks []float64
	if s.log {
		for v := s.least; v <= s.most*1.001; v *= 10 {
			ticks = append(ticks, v)
		}
		return ticks
	}
	step := s.step()
	for i := 0.0; i*step <= s.most*1.001; i++ {
		ticks = append(ticks, i*step)
	}
	return ticks
}

// short writes 12000 as 12k and 65536 as 64Ki.
func short(v float64) string {
	if n := int(v); float64(n) == v && n%1024 == 0 && n&(n-1) == 0 && n > 0 {
		if n >= mebi {
			return strconv.Itoa(n/mebi) + "Mi"
		}
		return strconv.Itoa(n/1024) + "Ki"
	}
	for _, unit := range []struct {
		size float64
		name string
	}{{1e6, "M"}, {1e3, "k"}} {
		if v >= unit.size {
			return strconv.FormatFloat(v/unit.size, 'g', 4, 64) + unit.name
		}
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"html"
	"math"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	draw  = flag.String("draw", "", "TestDraw draws the board into this PNG file")
	watch = flag.Duration("watch", 5*time.Minute, "for how long TestDraw watches the example")
)

// TestDraw has a Prometheus scrape the running example, asks it what every panel of the board shows, and draws that with Chromium, in
// the places of the board. It is Prometheus' answer that is seen, not Grafana's drawing. A panel without a line fails the test.
func TestDraw(t *testing.T) {
	if *draw == "" {
		t.Log("not asked for; run with -draw FILE")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), *watch+2*time.Minute)
	defer cancel()
	began := time.Now()
	p := prometheusOf(ctx, t, start(ctx, t))
	select {
	case <-time.After(*watch):
	case <-ctx.Done():
	}
	page := bytes.NewBufferString(`<!doctype html><meta charset="utf-8"><style>body{margin:0;background:#111217;position:relative}svg{position:absolute}</style>`)
	bottom := 0
	for _, panel := range readBoard(t).Panels {
		pos := panel.GridPos
		bottom = max(bottom, pos.Y+pos.H)
		var lines []line
		for _, target := range panel.Targets {
			lines = append(lines, p.lines(ctx, t, target.Expr, target.LegendFormat, began)...)
		}
		if panel.Type != "row" && len(lines) == 0 {
			t.Errorf("%s: no line", panel.Title)
		}
		fmt.Fprint(page, svg(panel.Title, panel.FieldConfig.Defaults.Unit, lines, pos.X*cell, pos.Y*row, pos.W*cell, pos.H*row, panel.Type == "row"))
	}
	source := filepath.Join(t.TempDir(), "board.html")
	write(t, source, page.String())
	picture, err := filepath.Abs(*draw)
	if err != nil {
		t.Fatal(err)
	}
	chromium := exec.CommandContext(ctx, "chromium-headless-shell", "--no-sandbox", "--hide-scrollbars", "--screenshot="+picture,
		fmt.Sprintf("--window-size=%d,%d", 24*cell, bottom*row), "file://"+source)
	if out, err := chromium.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// cell and row are the width and height of a cell of the board's grid in pixels.
const cell, row = 60, 30

// server is a Prometheus.
type server struct{ url string }

// prometheusOf starts a Prometheus that scrapes a page each second.
func prometheusOf(ctx context.Context, t *testing.T, page string) server {
	t.Helper()
	target, err := url.Parse(page)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write(t, filepath.Join(folder, "prometheus.yml"), "global: {scrape_interval: 1s}\nscrape_configs:\n  - job_name: orders\n    metrics_path: "+target.Path+
		"\n    static_configs: [{targets: ['"+target.Host+"']}]\n")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(promtool(ctx, t)), "prometheus"), "--config.file="+filepath.Join(folder, "prometheus.yml"),
		"--storage.tsdb.path="+folder, "--web.listen-address="+address)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return server{"http://" + address}
}

// line is what one series of a panel shows.
type line struct {
	name   string
	points [][2]float64 // time and value
}

var labelsIn = regexp.MustCompile(`\{\{ *(\w+) *\}\}`)

// lines asks what a query of the board gives.
func (s server) lines(ctx context.Context, t *testing.T, query, legend string, from time.Time) (lines []line) {
	t.Helper()
	query = strings.NewReplacer("$__rate_interval", "30s", "$job", ".*", "$queue", ".*", "$type", ".*").Replace(query)
	ask := s.url + "/api/v1/query_range?" + url.Values{"query": {query}, "start": {stamp(from)}, "end": {stamp(time.Now())}, "step": {"2"}}.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, ask, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Error != "" {
		t.Fatalf("%s: %v, %s", query, err, answer.Error)
	}
	for _, series := range answer.Data.Result {
		one := line{name: labelsIn.ReplaceAllStringFunc(legend, func(in string) string { return series.Metric[labelsIn.FindStringSubmatch(in)[1]] })}
		one.name = strings.TrimSpace(one.name)
		for _, v := range series.Values {
			at, _ := v[0].(float64)
			text, _ := v[1].(string)
			if value, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(value) {
				one.points = append(one.points, [2]float64{at, value})
			}
		}
		if len(one.points) > 0 {
			lines = append(lines, one)
		}
	}
	slices.SortFunc(lines, func(a, b line) int { return strings.Compare(a.name, b.name) })
	return lines
}

func stamp(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }

// svg draws a panel.
func svg(title, unit string, lines []line, x, y, w, h int, heading bool) string {
	const edge, top, left = 4, 34, 58
	var b strings.Builder
	fmt.Fprintf(&b, `<svg style="left:%dpx;top:%dpx" width="%d" height="%d" font-family="sans-serif" font-size="11" fill="#ccccdc">`, x, y, w, h)
	if heading {
		fmt.Fprintf(&b, `<text x="8" y="20" font-size="15" font-weight="bold">%s</text></svg>`, html.EscapeString(title))
		return b.String()
	}
	fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="#181b1f" stroke="#2c3235"/><text x="14" y="24" font-size="13">%s</text>`,
		edge, edge, w-2*edge, h-2*edge, html.EscapeString(title))
	first, last, most := math.Inf(1), math.Inf(-1), 0.0
	for _, l := range lines {
		for _, p := range l.points {
			first, last, most = min(first, p[0]), max(last, p[0]), max(most, p[1])
		}
	}
	if most == 0 {
		most = 1
	}
	bottom, right := h-24-14*min(len(lines), 4), w-16
	px := func(at float64) float64 { return left + (at-first)/max(last-first, 1)*float64(right-left) }
	py := func(v float64) float64 { return float64(bottom) - v/(most*1.1)*float64(bottom-top) }
	for i := range 3 {
		v := most * float64(i) / 2
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#2c3235"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`, left, py(v), right, left-5, py(v)+4, show(v, unit))
	}
	colours := []string{"#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9"}
	for i, l := range lines {
		colour := colours[i%len(colours)]
		b.WriteString(`<polyline fill="none" stroke-width="1.5" stroke="` + colour + `" points="`)
		for _, p := range l.points {
			fmt.Fprintf(&b, "%.1f,%.1f ", px(p[0]), py(p[1]))
		}
		b.WriteString(`"/>`)
		if i < 4 {
			fmt.Fprintf(&b, `<rect x="14" y="%d" width="12" height="3" fill="%s"/><text x="32" y="%d">%s: %s</text>`, bottom+15+14*i, colour, bottom+20+14*i,
				html.EscapeString(l.name), show(l.points[len(l.points)-1][1], unit))
		}
	}
	b.WriteString("</svg>")
	return b.String()
}

// show is a value with its unit.
func show(v float64, unit string) string {
	switch unit {
	case "s":
		return fmt.Sprintf("%.3g ms", v*1000)
	case "cps":
		return fmt.Sprintf("%.3g/s", v)
	case "percentunit":
		return fmt.Sprintf("%.3g %%", v*100)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

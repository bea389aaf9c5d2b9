package main

import (
	"bytes"
	"fmt"
	"html"
)

// Sizes of the plot, in pixels.
const (
	panelWidth  = 430
	panelGap    = 30
	barHeight   = 16
	labelWidth  = 105
	valueWidth  = 150
	titleHeight = 26
	margin      = 20
	headHeight  = 40
)

// colours of the libraries.
var colours = map[string]string{
	"harebus": "#d9480f", "harebus-sealed": "#ffa94d", "raw": "#495057", "raw-coalesced": "#868e96", "raw-multiple": "#adb5bd",
	"watermill": "#1c7ed6", "watermill-x10": "#74c0fc", "go-rabbitmq": "#2b8a3e",
}

// panel is one contest as a group of bars.
type panel struct {
	title string
	rows  []row
}

// plot draws the rows of 256 bytes as bars, one column for each kind of queue.
func plot(rows []row) []byte {
	var columns [][]panel
	height := 0
	for _, kind := range []string{"quorum", "classic", "null"} {
		panels := panelsOf(rows, kind)
		if len(panels) == 0 {
			continue
		}
		columns = append(columns, panels)
		h := 0
		for _, p := range panels {
			h += p.height()
		}
		height = max(height, h)
	}
	width := 2*margin + len(columns)*panelWidth + max(len(columns)-1, 0)*panelGap
	width = max(width, 720) // the title
	height += 2*margin + headHeight
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="15" font-weight="bold" fill="#212529">Messages per second and client CPU per message (RabbitMQ %s, 256 bytes, confirmed)</text>`+"\n",
		margin, margin+14, html.EscapeString(brokerOf(rows)))
	for i, panels := range columns {
		y := margin + headHeight
		for _, p := range panels {
			p.draw(&b, margin+i*(panelWidth+panelGap), y)
			y += p.height()
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func brokerOf(rows []row) string {
	for _, r := range rows {
		if r.QueueType != "null" {
			return r.Broker
		}
	}
	return "–"
}

// panelsOf groups the rows of a kind of queue by contest, in their order.
func panelsOf(rows []row, kind string) []panel {
	var panels []panel
	for _, r := range rows {
		if r.QueueType != kind || r.Size != small {
			continue
		}
		title := fmt.Sprintf("%s, %s", r.Workload, r.QueueType)
		if r.Goroutines > 0 {
			title += fmt.Sprintf(", %d goroutines", r.Goroutines)
		}
		if r.Queues > 1 {
			title += fmt.Sprintf(", %d queues", r.Queues)
		}
		if n := len(panels); n == 0 || panels[n-1].title != title {
			panels = append(panels, panel{title: title})
		}
		last := &panels[len(panels)-1]
		last.rows = append(last.rows, r)
	}
	return panels
}

func (p *panel) height() int { return titleHeight + len(p.rows)*barHeight + margin/2 }

func (p *panel) draw(b *bytes.Buffer, x, y int) {
	most := 1.0
	for _, r := range p.rows {
		most = max(most, r.Rate)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold" fill="#212529">%s</text>`+"\n", x, y+titleHeight-10, html.EscapeString(p.title))
	y += titleHeight - 4
	for i, r := range p.rows {
		top := y + i*barHeight
		length := r.Rate / most * (panelWidth - labelWidth - valueWidth)
		colour := colours[r.Impl]
		if colour == "" {
			colour = "#000"
		}
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#212529">%s</text>`+"\n", x+labelWidth-6, top+barHeight-5, html.EscapeString(r.Impl))
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x+labelWidth, top+2, length, barHeight-4, colour)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#212529">%s/s, %.1f µs CPU</text>`+"\n", float64(x+labelWidth)+length+5, top+barHeight-5, thousands(r.Rate), r.CPU)
	}
}

// thousands writes 12345 as 12,345.
func thousands(x float64) string {
	text := fmt.Sprintf("%.0f", x)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

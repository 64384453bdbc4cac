package report

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/spawnwire/spawnwire/bench/peers/growth"
	"github.com/spawnwire/spawnwire/bench/peers/peer"
	"github.com/spawnwire/spawnwire/bench/peers/spawn"
)

// Plots writes latency.svg, throughput.svg, calls.svg, spawn.svg and growth.svg into
// dir. It leaves out plots without results.
func (r *Results) Plots(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		r.latencyPlot(filepath.Join(dir, "latency.svg")),
		r.throughputPlot(filepath.Join(dir, "throughput.svg")),
		r.callsPlot(filepath.Join(dir, "calls.svg")),
		r.spawnPlot(filepath.Join(dir, "spawn.svg")),
		r.growthPlot(filepath.Join(dir, "growth.svg")),
	)
}

// Sizes in a plot.
const (
	panelWidth  = 10 * vg.Centimeter
	panelHeight = 8 * vg.Centimeter
	legendWidth = 8.5 * vg.Centimeter
	margin      = 4 * vg.Millimeter
	columns     = 2 // of panels
)

// sheet is a grid of plots with one legend.
type sheet struct {
	panels []*plot.Plot
	legend plot.Legend
	named  map[string]bool // names in the legend
}

func newSheet() *sheet {
	s := &sheet{legend: plot.NewLegend(), named: map[string]bool{}}
	s.legend.Top, s.legend.Left = true, true
	s.legend.Padding = vg.Millimeter
	return s
}

// panel adds a plot.
func (s *sheet) panel(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = 2 * vg.Millimeter
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{220}, color.Gray{220}
	p.Add(grid)
	s.panels = append(s.panels, p)
	return p
}

// line adds the line of a competitor to a plot.
func (s *sheet) line(p *plot.Plot, name string, points plotter.XYs) error {
	line, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	line.LineStyle = style(name)
	dots.Color, dots.Shape, dots.Radius = line.Color, draw.CircleGlyph{}, vg.Points(1.8)
	p.Add(line, dots)
	s.name(name, line, dots)
	return nil
}

func (s *sheet) name(name string, thumbs ...plot.Thumbnailer) {
	if !s.named[name] {
		s.named[name] = true
		s.legend.Add(name, thumbs...)
	}
}

// save writes the sheet to a file, unless it has no panels.
func (s *sheet) save(file string) error {
	if len(s.panels) == 0 {
		return nil
	}
	across := min(len(s.panels), columns)
	rows := (len(s.panels) + across - 1) / across
	width, height := panelWidth*vg.Length(across), panelHeight*vg.Length(rows)
	canvas := vgsvg.New(width+legendWidth, height)
	all := draw.NewCanvas(canvas, width+legendWidth, height)
	all.FillPolygon(color.White,
		[]vg.Point{{}, {Y: height}, {X: width + legendWidth, Y: height}, {X: width + legendWidth}})
	for i, p := range s.panels {
		left, top := panelWidth*vg.Length(i%across), height-panelHeight*vg.Length(i/across)
		area := draw.Canvas{Canvas: all, Rectangle: vg.Rectangle{
			Min: vg.Point{X: left + margin, Y: top - panelHeight + margin},
			Max: vg.Point{X: left + panelWidth - margin, Y: top - margin},
		}}
		p.Draw(area)
	}
	s.legend.Draw(draw.Canvas{Canvas: all, Rectangle: vg.Rectangle{
		Min: vg.Point{X: width + margin},
		Max: vg.Point{X: width + legendWidth, Y: height - 2*margin},
	}})
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// Colours of lines. The lines of this library are thick and have cold colours, the
// floors are grey and dashed, and the others have warm colours.
var (
	oursColors = []color.Color{rgb(0x08306b), rgb(0x2171b5), rgb(0x00897b), rgb(0x66bb6a),
		rgb(0x6baed6), rgb(0x1b5e20), rgb(0x00bcd4)}
	floorColors = []color.Color{rgb(0x000000), rgb(0x555555), rgb(0x888888), rgb(0xaaaaaa)}
	peerColors  = []color.Color{rgb(0xd62728), rgb(0xff7f0e), rgb(0xbc8a00), rgb(0x8c564b),
		rgb(0xe377c2), rgb(0x9467bd), rgb(0x7f0000), rgb(0xff9896), rgb(0x808000), rgb(0x4b0082)}
)

func rgb(c uint32) color.Color { return color.RGBA{uint8(c >> 16), uint8(c >> 8), uint8(c), 255} }

// style gives each competitor the same line in every plot.
func style(name string) draw.LineStyle {
	kind := func(name string) int {
		switch {
		case ours(name):
			return 0
		case isFloor(name):
			return 1
		}
		return 2
	}
	i := 0 // index of the competitor in its kind
	for _, p := range peer.All() {
		if p.Name() == name {
			break
		}
		if kind(p.Name()) == kind(name) {
			i++
		}
	}
	colors := [][]color.Color{oursColors, floorColors, peerColors}[kind(name)]
	s := draw.LineStyle{Color: colors[i%len(colors)], Width: vg.Points(1.2)}
	switch kind(name) {
	case 0:
		s.Width = vg.Points(2.5)
	case 1:
		s.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
	}
	return s
}

func logarithmic(axis *plot.Axis) {
	axis.Scale = plot.LogScale{}
	axis.Tick.Marker = decades
}

// decades labels a logarithmic axis: each power of ten and, if there are few, also
// 2 and 5.
var decades = plot.TickerFunc(func(low, high float64) []plot.Tick {
	few := high/low < 1000
	var ticks []plot.Tick
	for power := math.Pow(10, math.Floor(math.Log10(low))); power <= high; power *= 10 {
		for digit := 1.0; digit < 10; digit++ {
			if v := digit * power; v >= low && v <= high {
				label := ""
				if digit == 1 || few && (digit == 2 || digit == 5) {
					label = short(v)
				}
				ticks = append(ticks, plot.Tick{Value: v, Label: label})
			}
		}
	}
	return ticks
})

// linear makes an axis linear, from 0.
func linear(axis *plot.Axis) {
	axis.Min = 0
	axis.Tick.Marker = plot.TickerFunc(func(low, high float64) []plot.Tick {
		step := math.Pow(10, math.Floor(math.Log10(high-low)))
		for (high-low)/step < 5 {
			step /= 2
		}
		var ticks []plot.Tick
		for i := 0.0; i*step <= high; i++ {
			ticks = append(ticks, plot.Tick{Value: i * step, Label: short(i * step)})
		}
		return ticks
	})
}

// short formats a round number, such as "200", "10k" or "5M".
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", math.Round(v/1e3)/1e3)
	case v >= 1e4:
		return fmt.Sprintf("%gk", math.Round(v)/1e3)
	}
	return fmt.Sprintf("%.4g", v)
}

// sizes labels an axis of sizes.
var sizes = plot.TickerFunc(func(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for n := 64; float64(n) <= high; n *= 4 {
		label := peer.SizeName(n)
		if n != 64 && n != 1<<10 && n != 64<<10 {
			label = "" // not enough room for all
		}
		if float64(n) >= low {
			ticks = append(ticks, plot.Tick{Value: float64(n), Label: label})
		}
	}
	return ticks
})

func (r *Results) latencyPlot(file string) error {
	s := newSheet()
	for _, t := range r.tables(peer.RoundTrip, "unix") {
		p := s.panel("round trip, "+peer.SizeName(t.Job.Size), "percentile", "µs")
		logarithmic(&p.Y)
		p.X.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "50"}, {Value: 1, Label: "90"},
			{Value: 2, Label: "99"}, {Value: 3, Label: "99.9"}}
		for _, row := range t.Rows {
			if row.Error != "" || row.Latency == nil {
				continue
			}
			l := row.Latency
			points := plotter.XYs{{X: 0, Y: l.P50 / 1e3}, {X: 1, Y: l.P90 / 1e3},
				{X: 2, Y: l.P99 / 1e3}, {X: 3, Y: l.P999 / 1e3}}
			if err := s.line(p, row.Peer, points); err != nil {
				return err
			}
		}
	}
	return s.save(file)
}

func (r *Results) throughputPlot(file string) error {
	s := newSheet()
	for _, network := range []string{"unix", "tcp"} {
		tables := r.tables(peer.Stream, network)
		if len(tables) == 0 {
			continue
		}
		p := s.panel("one-way stream, "+network, "size of a message", "MiB/s of payload")
		logarithmic(&p.X)
		logarithmic(&p.Y)
		p.X.Tick.Marker = sizes
		for _, name := range rowNames(tables) {
			var points plotter.XYs
			for _, t := range tables {
				if row := rowOf(&t, name); row != nil {
					points = append(points,
						plotter.XY{X: float64(t.Job.Size),
							Y: float64(t.Job.Size) / (1 << 20) / (row.Op.P50 / 1e9)})
				}
			}
			if err := s.line(p, name, points); err != nil {
				return err
			}
		}
	}
	return s.save(file)
}

func (r *Results) spawnPlot(file string) error {
	rows := slices.DeleteFunc(slices.Clone(r.Spawn),
		func(row spawn.Row) bool { return row.Error != "" })
	if len(rows) == 0 {
		return nil
	}
	s := newSheet()
	p := s.panel("spawn to ready", "", "ms")
	var below *plotter.BarChart
	for phase, name := range spawn.PhaseNames {
		var values plotter.Values
		for _, row := range rows {
			values = append(values, row.Phases[phase]/1000)
		}
		bars, err := plotter.NewBarChart(values, vg.Centimeter)
		if err != nil {
			return err
		}
		bars.Color = plotutil.SoftColors[phase]
		bars.LineStyle.Width = 0
		if below != nil {
			bars.StackOn(below)
		}
		below = bars
		p.Add(bars)
		s.name(name, bars)
	}
	var names []string
	for _, row := range rows {
		names = append(names, row.Name)
	}
	linear(&p.Y)
	p.NominalX(names...)
	p.X.Tick.Label.Rotation = math.Pi / 6
	p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = draw.XRight, draw.YTop
	return s.save(file)
}

func (r *Results) growthPlot(file string) error {
	s := newSheet()
	for _, g := range []struct {
		lines       []growth.Line
		title, x, y string
		unit        float64
		logY        bool
	}{
		{r.Channels, "a round trip of 64 B over n channels in turn", "channels", "µs", 1000, false},
		{r.Messages, "a stream of n messages of 64 B", "messages", "ns for each", 1, true},
	} {
		if len(g.lines) == 0 {
			continue
		}
		p := s.panel(g.title, g.x, g.y)
		p.Title.TextStyle.Font.Size = vg.Points(10)
		logarithmic(&p.X)
		if g.logY {
			logarithmic(&p.Y)
		} else {
			linear(&p.Y)
		}
		for _, l := range g.lines {
			var points plotter.XYs
			for _, at := range l.Points {
				if at.Op > 0 { // otherwise it has no logarithm
					points = append(points, plotter.XY{X: float64(at.N), Y: at.Op / g.unit})
				}
			}
			if len(points) == 0 {
				return fmt.Errorf("%s: no results of %s", g.title, l.Peer)
			}
			if err := s.line(p, l.Peer, points); err != nil {
				return err
			}
		}
	}
	return s.save(file)
}

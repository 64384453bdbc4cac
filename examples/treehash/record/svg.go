package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	width, lineHeight = 860, 18 // pixels
	margin            = 14
	least             = 80 * time.Millisecond // that a frame is shown
	last              = 4 * time.Second       // that the last frame is shown
)

// writeSVG writes the frames side by side in one strip. An animation moves the
// strip, so one frame at a time is in view.
func writeSVG(w io.Writer, frames []frame) error {
	frames = thin(frames)
	height := 0
	for _, f := range frames {
		height = max(height, len(f.lines))
	}
	height = height*lineHeight + 2*margin
	length := frames[len(frames)-1].at + last

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d">`+
		"\n<style>\n"+
		"text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #d8dee9; white-space: pre }\n"+
		".strip { animation: play %.2[3]fs steps(1, end) infinite }\n@keyframes play {\n",
		width, height, length.Seconds())
	for i, f := range frames {
		fmt.Fprintf(&b, "%.2f%% { transform: translateX(%dpx) }\n",
			100*f.at.Seconds()/length.Seconds(), -i*width)
	}
	b.WriteString("}\n</style>\n")
	b.WriteString(`<rect width="100%" height="100%" rx="8" fill="#20242c"/>` + "\n")
	b.WriteString(`<g class="strip">` + "\n")
	for i, f := range frames {
		for n, line := range f.lines {
			if line == "" {
				continue
			}
			fmt.Fprintf(&b, `<text x="%d" y="%d">`, i*width+margin, (n+1)*lineHeight+margin/2)
			if err := xml.EscapeText(&b, []byte(line)); err != nil {
				return err
			}
			b.WriteString("</text>\n")
		}
	}
	b.WriteString("</g>\n</svg>\n")
	_, err := b.WriteTo(w)
	return err
}

// thin leaves out frames that are equal to the one before or shown too briefly.
func thin(frames []frame) []frame {
	var kept []frame
	for i, f := range frames {
		if len(kept) > 0 && slices.Equal(kept[len(kept)-1].lines, f.lines) {
			continue
		}
		if i+1 < len(frames) && frames[i+1].at-f.at < least && len(kept) > 0 &&
			f.at-kept[len(kept)-1].at < least {
			continue
		}
		kept = append(kept, f)
	}
	return kept
}

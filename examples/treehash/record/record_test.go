package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestScreen_ErasesProgressAndWrapsLines(t *testing.T) {
	s := &screen{columns: 8}
	s.write("12 of 99\r\x1b[Kdied: ü\r\n13 of 99")
	assert.Equal(t, []string{"died: ü", "13 of 99"}, s.text())
	s.write("!\r\n")
	assert.Equal(t, []string{"died: ü", "13 of 99", "!", ""}, s.text())
}

func TestSVG_HasEachFrameOnce(t *testing.T) {
	var svg bytes.Buffer
	require.NoError(t, writeSVG(&svg, []frame{
		{0, []string{"$ a <b"}},
		{time.Second, []string{"$ a <b"}},
		{2 * time.Second, []string{"$ a <b", "done"}},
	}))
	assert.Equal(t, 2, bytes.Count(svg.Bytes(), []byte("$ a &lt;b</text>")))
	assert.Contains(t, svg.String(), "33.33% { transform: translateX(-860px) }")
	decoder := xml.NewDecoder(&svg)
	for {
		_, err := decoder.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
	}
}

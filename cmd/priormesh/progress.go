package main

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// maxSaid is how much text has room behind a bar.
const maxSaid = 60

// progress is a bar of bytes on stderr while a person watches, and nothing
// otherwise.
type progress struct {
	io.Writer // for lines above the bar
	bars      *mpb.Progress
	bar       *mpb.Bar
	said      *atomic.Value // a string shown behind the bar; nil: how fast it goes on the whole
}

// progress starts a bar. With --json there is none: whoever reads the result
// may be reading it on the same terminal.
func (p *program) progress(label string) *progress {
	if p.json || !p.watched() {
		return &progress{Writer: p.stderr}
	}
	bars := mpb.New(mpb.WithOutput(p.stderr), mpb.WithWidth(40))
	said := new(atomic.Value)
	average := decor.AverageSpeed(decor.SizeB1024(0), "% .1f")
	behind := decor.Any(func(s decor.Statistics) string {
		if text, ok := said.Load().(string); ok {
			return text
		}
		text, _ := average.Decor(s)
		return text
	})
	bar := bars.AddBar(0,
		mpb.PrependDecorators(decor.Name(label), decor.CountersKibiByte(" % .1f / % .1f")),
		mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.Name("  "), behind))
	return &progress{bars, bars, bar, said}
}

// say shows a text behind the bar instead of how fast it goes.
func (p *progress) say(text string) {
	if p.said != nil {
		p.said.Store(short(text, maxSaid))
	}
}

// of says how many bytes there are to come in all, as far as is known.
func (p *progress) of(total int64) {
	if p.bar != nil {
		p.bar.SetTotal(total, false)
	}
}

// add says that n more bytes are done.
func (p *progress) add(n int64) {
	if p.bar != nil {
		p.bar.IncrInt64(n)
	}
}

// at says that n bytes are done in all.
func (p *progress) at(n int64) {
	if p.bar != nil {
		p.bar.SetCurrent(n)
	}
}

// end leaves the bar as it is.
func (p *progress) end() {
	if p.bar != nil {
		p.bar.Abort(false)
		p.bars.Wait()
	}
}

// counted adds to a bar what is read.
type counted struct {
	io.ReadSeeker
	bar *progress
	n   int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadSeeker.Read(b)
	c.n += int64(n)
	c.bar.add(int64(n))
	return n, err
}

// bytesText is a size for people.
func bytesText(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d bytes", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB"} {
		if v /= 1000; v < 999.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

package mesh

import "time"

const (
	firstWindow = 1 << 20  // bytes asked for at once of a holder whose pace is not known
	leastWindow = 64 << 10 // of the slowest; a block is always asked for, whatever its size
	mostWindow  = 16 << 20 // of the fastest: a line of 1 Gbit/s and 50 ms has 6 MiB on its way
	maxAsked    = 1024     // addresses asked for at once

	// lookAhead is how much is asked for beyond what is on the line: enough to
	// keep it full, and little for what is urgent to wait behind.
	lookAhead = 50 * time.Millisecond
	sampleMin = 20 * time.Millisecond
)

// pace is how fast a holder gives, and so how much of it is asked for at once:
// what its line holds, and a little more. While a line is not full, asking for
// more makes it faster, and the window grows with it.
type pace struct {
	rtt   time.Duration // the shortest wait for an answer
	rate  float64       // bytes a second
	since time.Time     // of the bytes that are being counted
	bytes int
}

// window is how many bytes may be on their way.
func (p *pace) window() int {
	if p.rate == 0 {
		return firstWindow
	}
	w := p.rate * (p.rtt + p.rtt/4 + lookAhead).Seconds()
	return int(min(max(w, leastWindow), mostWindow))
}

// asked notes that something is asked for, of a holder that had nothing to do.
func (p *pace) asked(now time.Time) { p.since, p.bytes = now, 0 }

// answered notes the time that an answer took.
func (p *pace) answered(wait time.Duration) {
	if p.rtt == 0 || wait < p.rtt {
		p.rtt = wait
	}
}

// came notes bytes of a holder that is kept busy.
func (p *pace) came(n int, now time.Time) {
	p.bytes += n
	took := now.Sub(p.since)
	if took < max(sampleMin, p.rtt) {
		return
	}
	rate := float64(p.bytes) / took.Seconds()
	if rate < p.rate { // up at once, down by and by: one block may be long in coming
		rate = (3*p.rate + rate) / 4
	}
	p.rate, p.since, p.bytes = rate, now, 0
}

// left is how long n bytes will take.
func (p *pace) left(n int) time.Duration {
	if p.rate == 0 {
		return p.rtt + time.Duration(float64(n)/firstWindow*float64(time.Second))
	}
	return p.rtt + time.Duration(float64(n)/p.rate*float64(time.Second))
}

// Package link is a line between two places: so wide, so long, so lossy, and
// cut when somebody cuts it.
//
// A Shape is one direction of a line as a step machine: it is told of a packet
// and of the time, and says when the packet comes out at the far end, or that
// it does not. It does no I/O; what clock and what randomness are the
// caller's, so it runs under virtual time too. Two things carry real bytes by
// it:
//
//   - a Relay joins two sockets of TCP. It needs no rights, and cannot lose
//     anything: a stream has no packets that could be missing.
//   - a Switch joins Places, each a network namespace of its own, reached by a
//     tun device alone. What runs there, by TCP, QUIC or anything else, has its
//     packets delayed and lost as on a real line, and its own kernel's answer
//     to that. It needs Linux and root; ErrRights says what lacks.
//
// What may not live here: anything that knows what the bytes mean.
package link

import (
	"math/rand/v2"
	"time"
)

// Line is one direction of a line. The zero Line is as good as none.
type Line struct {
	Rate  float64       // bytes a second; 0: as fast as it goes
	Delay time.Duration // from end to end
	Loss  float64       // share of the packets that do not arrive
	// Queue is how many bytes may wait for the line. 0: what it carries in
	// QueueTime, and LeastQueue at least. It means nothing without a Rate.
	Queue int
}

// What a router keeps if nobody says otherwise.
const (
	QueueTime  = 50 * time.Millisecond
	LeastQueue = 64 << 10
)

// Mbit is a rate of so many megabits a second, in bytes.
func Mbit(n float64) float64 { return n * 1e6 / 8 }

func (l Line) queue() float64 {
	if l.Queue > 0 {
		return float64(l.Queue)
	}
	return max(LeastQueue, l.Rate*QueueTime.Seconds())
}

// A Shape is a Line at work. It belongs to one goroutine.
type Shape struct {
	line Line
	rand *rand.Rand
	free time.Time // when the line has sent all that it has taken
}

// NewShape is an idle line. rand decides what is lost; it is not asked of a
// line without loss.
func NewShape(l Line, rand *rand.Rand) *Shape { return &Shape{line: l, rand: rand} }

// Pass takes a packet, at a time that is not before that of the packet before
// it, and says when it comes out. false: the queue is full, or it is lost.
func (s *Shape) Pass(now time.Time, size int) (at time.Time, ok bool) {
	if s.Wait(now, size) > 0 {
		return time.Time{}, false
	}
	if now.After(s.free) {
		s.free = now
	}
	if s.line.Rate > 0 {
		s.free = s.free.Add(time.Duration(float64(size) / s.line.Rate * float64(time.Second)))
	}
	// What is lost has been sent.
	if s.line.Loss > 0 && s.rand.Float64() < s.line.Loss {
		return time.Time{}, false
	}
	return s.free.Add(s.line.Delay), true
}

// Wait is how long it takes until the queue has room for a packet.
func (s *Shape) Wait(now time.Time, size int) time.Duration {
	if s.line.Rate <= 0 {
		return 0
	}
	waiting := s.free.Sub(now).Seconds() * s.line.Rate
	over := waiting + float64(size) - s.line.queue()
	if waiting <= 0 || over <= 0 { // an empty queue takes anything
		return 0
	}
	return max(time.Nanosecond, time.Duration(over/s.line.Rate*float64(time.Second)))
}
